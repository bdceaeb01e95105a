import signal

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.training import distribution
from tpu_train.training.distribution import (
    describe,
    distributed_dataset,
    make_gather,
    make_strategy,
    worker_count,
)

pytestmark = pytest.mark.every_stack


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)


def test_auto_is_the_cpu_without_accelerators():
    assert describe(make_strategy("auto")) == "1 replica on CPU (OneDeviceStrategy)"


def test_two_devices_are_mirrored():
    strategy = make_strategy("cpu:2")
    assert strategy.num_replicas_in_sync == 2
    assert describe(strategy) == "2 replicas on CPU (MirroredStrategy)"


def test_one_cpu_reads_batches_without_autotuning():
    """Its thread can miss the end of the iterator, which then waits for seconds."""

    def batches(context):
        return tf.data.Dataset.range(4).batch(2 // context.num_replicas_in_sync)

    data = distributed_dataset(make_strategy("cpu"), batches)
    assert data.options().autotune.enabled is False
    assert [batch.numpy().tolist() for batch in data] == [[0, 1], [2, 3]]
    strategy = make_strategy("cpu:2")
    replicas = [
        [int(v[0]) for v in strategy.experimental_local_results(batch)]
        for batch in distributed_dataset(strategy, batches)
    ]
    assert replicas == [[0, 1], [2, 3]]


def test_several_devices_have_one_strategy_per_process():
    """A second one would reuse the keys of the first one's collectives, of another shape."""

    @tf.function
    def all_reduced(strategy, values):
        def replica_fn():
            return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([values]))

        return strategy.experimental_local_results(strategy.run(replica_fn))[0]

    for values in (3, 5):
        strategy = make_strategy("cpu:2")
        np.testing.assert_array_equal(all_reduced(strategy, values), [2.0] * values)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpus", "Unknown device 'gpus'. Did you mean 'gpu'"),
        ("gpu", "No GPU was found; this machine has: CPU"),
        ("cpu:none", "cpu:none: the number of devices must be a positive integer"),
        ("cpu:3", "device cpu:3: this process has 2"),
        ("multi-worker", "needs the environment variable TF_CONFIG"),
    ],
)
def test_a_missing_device_is_an_error_with_those_available(device, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(device)


class FakeTpu:
    """Records the order of the calls that initialize a TPU."""

    def __init__(self, monkeypatch, fails=None):
        self.calls = []
        monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", self.resolve)
        monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", self.recorder("connect"))
        monkeypatch.setattr(
            tf.tpu.experimental, "initialize_tpu_system", self.recorder("initialize")
        )
        monkeypatch.setattr(tf.distribute, "TPUStrategy", self.recorder("strategy"))
        self.fails = fails

    def resolve(self, tpu):
        if self.fails:
            raise self.fails
        self.calls.append(f"resolve {tpu}")
        return tpu

    def recorder(self, name):
        return lambda resolver: self.calls.append(f"{name} {resolver}")


def test_a_local_tpu_is_initialized_without_connecting(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    make_strategy("tpu")
    assert tpu.calls == ["resolve local", "initialize local", "strategy local"]


def test_a_named_tpu_is_connected_first(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    make_strategy("tpu:my-node")
    assert tpu.calls[:2] == ["resolve my-node", "connect my-node"]


def test_auto_finds_a_tpu_in_the_environment(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    monkeypatch.setenv("COLAB_TPU_ADDR", "10.0.0.2:8470")
    make_strategy("auto")
    assert tpu.calls[0] == "resolve grpc://10.0.0.2:8470"


def test_an_unreachable_tpu_is_a_clear_error(monkeypatch):
    FakeTpu(monkeypatch, fails=ValueError("Please provide a TPU Name to connect to."))
    with pytest.raises(ValueError, match="No TPU was found at 'local': Please provide"):
        make_strategy("tpu")


def test_auto_uses_the_workers_of_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert distribution._detected_kind() == "multi-worker"


def test_ctrl_c_ends_a_worker_while_tensorflow_connects(monkeypatch):
    """TensorFlow holds Python's lock then: a handler in Python would not run."""
    monkeypatch.setenv("TF_CONFIG", "{}")
    connect = "MultiWorkerMirroredStrategy"
    monkeypatch.setattr(tf.distribute, connect, lambda: signal.getsignal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert make_strategy("multi-worker") == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_one_process_is_one_worker_and_gathers_only_its_own_numbers():
    for device in ("cpu", "cpu:2"):
        strategy = make_strategy(device)
        assert worker_count(strategy) == 1
        assert make_gather(strategy)([True, 7]).tolist() == [[1, 7]]
