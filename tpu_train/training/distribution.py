"""--device -> a tf.distribute strategy. The first TensorFlow call of a program, and only once."""

import contextlib
import functools
import os

import tensorflow as tf

from keras_effnet.suggestions import unknown_name
from tpu_train.device_names import DEVICES


def make_strategy(device="auto"):
    """The strategy for a kind of device; "cpu:2" and "gpu:2" take that many devices.

    "auto" takes what there is, in this order: several workers when ``TF_CONFIG`` names them, a TPU,
    all GPUs, the CPU. "tpu" also takes a name or address ("tpu:my-node", "tpu:grpc://10.0.0.2:8470").
    Raises ``ValueError`` for a device that is unknown or not there, with what there is.
    """
    kind, _, which = device.partition(":")
    if kind not in DEVICES:
        raise ValueError(unknown_name("device", device, DEVICES))
    if kind == "auto":
        kind = _found()
    if kind == "multi-worker":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "device 'multi-worker' needs the environment variable TF_CONFIG with the cluster's "
                "addresses and this worker's index: see tensorflow.org/guide/distributed_training"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "tpu":
        return _tpu(which)
    return _local(kind, which)


def describe(strategy):
    """One line for people: the strategy, its replicas, its devices.

    >>> describe(tf.distribute.OneDeviceStrategy("/cpu:0"))
    '1 replica on CPU (OneDeviceStrategy)'
    """
    n = strategy.num_replicas_in_sync
    kind = strategy.extended.worker_devices[0].rsplit("device:", 1)[-1].split(":")[0].strip("/")
    many = "replica" if n == 1 else "replicas"
    return f"{n} {many} on {kind.upper()} ({type(strategy).__name__})"


def _found():
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
    # A TPU VM, Colab and Kaggle have their TPU beside them ("local"); a TPU node has an address.
    address = name or os.environ.get("COLAB_TPU_ADDR") or os.environ.get("TPU_NAME") or "local"
    if address == os.environ.get("COLAB_TPU_ADDR") and not address.startswith("grpc://"):
        address = f"grpc://{address}"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)  # before any other op; wipes the device
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            f"No TPU answers at {address!r}: {str(error).splitlines()[0]} On Colab choose a TPU "
            "runtime and install tensorflow-tpu; elsewhere give --device=tpu:NAME, or --device=cpu"
        ) from error


def _local(kind, which):
    name = kind.upper()
    if which and not (which.isdigit() and int(which)):
        raise ValueError(f"device {kind}:{which} names no number of devices: give e.g. {kind}:2")
    wanted = int(which) if which else None
    physical = tf.config.list_physical_devices(name)
    if not physical:
        raise ValueError(f"There is no {name} here; there is: {_there_is()}")
    count = wanted or (len(physical) if kind == "gpu" else 1)
    if kind == "cpu" and count > 1:
        with contextlib.suppress(RuntimeError):  # TensorFlow is in use: take what was made then
            tf.config.set_logical_device_configuration(
                physical[0], [tf.config.LogicalDeviceConfiguration()] * count
            )
    there = len(tf.config.list_logical_devices(name))
    if count > there:
        raise ValueError(f"device {kind}:{count}: this process has {there}")
    if count == 1:
        return tf.distribute.OneDeviceStrategy(f"/{kind}:0")
    return _mirrored(tuple(f"/{kind}:{i}" for i in range(count)))


@functools.cache
def _mirrored(devices):
    # One a process: the collectives of a second one would have the keys of the first one's, which
    # TensorFlow aborts for good ("Shape mismatch in the collective instance"; 2.15 and 2.21).
    return tf.distribute.MirroredStrategy(devices)


def _there_is():
    return ", ".join(sorted({d.device_type for d in tf.config.list_physical_devices()}))
