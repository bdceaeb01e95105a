"""``--device`` -> tf.distribute strategy, and what the workers of a strategy exchange.

:func:`make_strategy` must be the first TensorFlow call of a process, and the only one of its kind.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.interruption import interrupts_end_the_process
from tpu_train.device_names import LOCAL_DEVICES, check_device
from tpu_train.training.worker_wait import GIVE_UP_SECONDS, wait_for_workers


def make_strategy(
    device: str = "auto", wait_seconds: float = GIVE_UP_SECONDS
) -> tf.distribute.Strategy:
    """The strategy for a kind of device; "cpu:2" and "gpu:2" use that many devices.

    "auto" uses the first of these that exists: several workers if ``TF_CONFIG`` names them, a TPU,
    all GPUs, the CPU. "tpu" also takes a name or address ("tpu:my-node", "tpu:grpc://10.0.0.2:8470").
    Several workers wait for each other, for `wait_seconds` at most. Raises ``ValueError`` for a
    device that is unknown or not present, with those that are.
    """
    kind, _, detail = device.partition(":")
    check_device(device)
    if kind == "auto":
        kind = _detected_kind()
    if kind == "multi-worker":
        wait_for_workers(os.environ["TF_CONFIG"], wait_seconds)
        # If a worker has ended since, TensorFlow waits for it. Ctrl-C then ends this process;
        # TensorFlow itself catches SIGTERM, until it notices that a worker does not answer.
        with interrupts_end_the_process():
            return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "tpu":
        return _tpu(detail)
    return _local(kind, detail)


def make_local_strategy(device: str = "auto") -> tf.distribute.Strategy:
    """As :func:`make_strategy`, of this process alone, whatever ``TF_CONFIG`` states."""
    if device == "auto" and os.environ.get("TF_CONFIG"):
        device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    check_device(device, LOCAL_DEVICES)  # hosts work on their own
    return make_strategy(device)


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line of text: the number of replicas, their device type and the strategy.

    >>> describe(tf.distribute.OneDeviceStrategy("/cpu:0"))
    '1 replica on CPU (OneDeviceStrategy)'
    """
    n = strategy.num_replicas_in_sync
    kind = strategy.extended.worker_devices[0].rsplit("device:", 1)[-1].split(":")[0].strip("/")
    replicas = "replica" if n == 1 else "replicas"
    return f"{n} {replicas} on {kind.upper()} ({type(strategy).__name__})"


def runs_on_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas of a strategy compute on CPUs.

    >>> runs_on_cpu(tf.distribute.OneDeviceStrategy("/cpu:0"))
    True
    """
    return "CPU" in strategy.extended.worker_devices[0].upper()


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """The number of processes that train together; all hosts of a TPU pod belong to one process."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(cluster.get(job, ())) for job in ("chief", "worker"))


def make_gather(
    strategy: tf.distribute.Strategy,
) -> Callable[[Sequence[int]], np.ndarray]:
    """A function from this worker's integers to int64 (workers, integers), those of all workers.

    Row 0 is the chief's. With several workers it is a small all-gather, which all of them must
    call; with one it only adds the axis.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return lambda numbers: np.asarray([numbers], np.int64)

    @tf.function
    def all_gather(numbers):
        def replica_fn(numbers):
            return tf.distribute.get_replica_context().all_gather(numbers[None], axis=0)

        return strategy.experimental_local_results(strategy.run(replica_fn, args=(numbers,)))[0]

    return lambda numbers: all_gather(tf.constant(numbers, tf.int64)).numpy()


def distributed_dataset(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterable:
    """The batches of all replicas; `dataset` returns the batches of one replica.

    >>> strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    >>> [int(n) for n in distributed_dataset(strategy, lambda context: tf.data.Dataset.range(2))]
    [0, 1]
    """
    if strategy.num_replicas_in_sync > 1 or not runs_on_cpu(strategy):
        return strategy.distribute_datasets_from_function(dataset)
    # A distributed dataset only adds threads on one CPU. On a busy one, it also waits for seconds
    # when it is deleted: for tf.data's autotuning, which can miss its end (Model::OptimizeLoop of
    # TensorFlow 2.21). A distributed dataset ignores that autotuning is off.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset(tf.distribute.InputContext()).with_options(options)


def _detected_kind():
    if os.environ.get("TF_CONFIG"):
        return "multi-worker"
    # The TensorFlow build for TPUs links libtpu; a TPU node is announced by the environment.
    if any(os.environ.get(v) for v in ("TPU_NAME", "COLAB_TPU_ADDR")) or _has_local_tpu():
        return "tpu"
    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def _has_local_tpu():
    accelerators = any(os.path.exists(f"/dev/{name}") for name in ("accel0", "vfio/0"))
    return accelerators and not tf.config.list_physical_devices("GPU")


def _tpu(name):
    # The TPU of a TPU VM, of Colab and of Kaggle is "local"; a TPU node has an address.
    address = name or os.environ.get("COLAB_TPU_ADDR") or os.environ.get("TPU_NAME") or "local"
    if address == os.environ.get("COLAB_TPU_ADDR") and not address.startswith("grpc://"):
        address = f"grpc://{address}"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        # Must come before any other op: it clears the device's memory.
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            f"No TPU was found at {address!r}: {str(error).splitlines()[0]} On Colab choose a TPU "
            "runtime and install tensorflow-tpu; elsewhere give --device=tpu:NAME, or --device=cpu"
        ) from error


def _local(kind, count_text):
    name = kind.upper()
    physical = tf.config.list_physical_devices(name)
    if not physical:
        raise ValueError(f"No {name} was found; this machine has: {_device_types()}")
    default = len(physical) if kind == "gpu" else 1
    count = int(count_text) if count_text else default
    if kind == "cpu" and count > 1:
        # A RuntimeError means that TensorFlow is already initialized: use its devices.
        with contextlib.suppress(RuntimeError):
            tf.config.set_logical_device_configuration(
                physical[0], [tf.config.LogicalDeviceConfiguration()] * count
            )
    available = len(tf.config.list_logical_devices(name))
    if count > available:
        raise ValueError(f"device {kind}:{count}: this process has {available}")
    if count == 1:
        return tf.distribute.OneDeviceStrategy(f"/{kind}:0")
    return _mirrored(tuple(f"/{kind}:{i}" for i in range(count)))


@functools.cache
def _mirrored(devices):
    # One per process: the collectives of a second strategy would reuse the keys of the first one's,
    # which TensorFlow aborts ("Shape mismatch in the collective instance"; 2.15 and 2.21).
    return tf.distribute.MirroredStrategy(devices)


def _device_types():
    return ", ".join(sorted({d.device_type for d in tf.config.list_physical_devices()}))
