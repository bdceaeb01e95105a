import numpy as np
import pytest
import tensorflow as tf

from tpu_train.training import distribution
from tpu_train.training.distribution import describe, make_strategy


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)


def test_auto_takes_the_cpu_where_there_is_nothing_else():
    assert describe(make_strategy("auto")) == "1 replica on CPU (OneDeviceStrategy)"


def test_two_devices_are_mirrored():
    strategy = make_strategy("cpu:2")
    assert strategy.num_replicas_in_sync == 2
    assert describe(strategy) == "2 replicas on CPU (MirroredStrategy)"


def test_a_process_has_one_strategy_of_several_devices_however_often_it_asks():
    """The collectives of a second one would meet the first one's, of another shape."""

    @tf.function
    def summed(strategy, values):
        def own():
            return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([values]))

        return strategy.experimental_local_results(strategy.run(own))[0]

    for values in (3, 5):
        strategy = make_strategy("cpu:2")
        np.testing.assert_array_equal(summed(strategy, values), [2.0] * values)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpus", "Unknown device 'gpus'. Did you mean 'gpu'"),
        ("gpu", "There is no GPU here; there is: CPU"),
        ("cpu:none", "cpu:none names no number of devices"),
        ("cpu:3", "device cpu:3: this process has 2"),
        ("multi-worker", "needs the environment variable TF_CONFIG"),
    ],
)
def test_a_device_that_is_not_there_says_what_is(device, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(device)


class FakeTpu:
    """Records the order of the calls that bring a TPU up."""

    def __init__(self, monkeypatch, fails=None):
        self.calls = []
        monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", self.resolve)
        monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", self.note("connect"))
        monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", self.note("initialize"))
        monkeypatch.setattr(tf.distribute, "TPUStrategy", self.note("strategy"))
        self.fails = fails

    def resolve(self, tpu):
        if self.fails:
            raise self.fails
        self.calls.append(f"resolve {tpu}")
        return tpu

    def note(self, what):
        return lambda resolver: self.calls.append(f"{what} {resolver}")


def test_a_local_tpu_is_initialised_before_the_strategy_and_never_connected_to(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    make_strategy("tpu")
    assert tpu.calls == ["resolve local", "initialize local", "strategy local"]


def test_a_named_tpu_is_connected_to_first(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    make_strategy("tpu:my-node")
    assert tpu.calls[:2] == ["resolve my-node", "connect my-node"]


def test_auto_finds_a_tpu_by_the_environment(monkeypatch):
    tpu = FakeTpu(monkeypatch)
    monkeypatch.setenv("COLAB_TPU_ADDR", "10.0.0.2:8470")
    make_strategy("auto")
    assert tpu.calls[0] == "resolve grpc://10.0.0.2:8470"


def test_a_tpu_that_does_not_answer_is_a_clear_error(monkeypatch):
    FakeTpu(monkeypatch, fails=ValueError("Please provide a TPU Name to connect to."))
    with pytest.raises(ValueError, match="No TPU answers at 'local': Please provide"):
        make_strategy("tpu")


def test_auto_takes_the_workers_that_tf_config_names(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert distribution._found() == "multi-worker"
