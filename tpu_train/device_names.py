"""Values of ``--device``, without TensorFlow: commands check their flags before they import it."""

from __future__ import annotations

import os

from keras_effnet.suggestions import unknown_name

DEVICES = ("auto", "tpu", "gpu", "cpu", "multi-worker")
LOCAL_DEVICES = tuple(device for device in DEVICES if device != "multi-worker")


def check_device(device: str, accepted: tuple[str, ...] = DEVICES) -> None:
    """Raises ``ValueError`` for a device that no machine has.

    >>> check_device("cpu:0")
    Traceback (most recent call last):
    ValueError: device cpu:0: the number of devices must be a positive integer, e.g. cpu:2
    """
    kind, _, detail = device.partition(":")
    if kind not in accepted:
        raise ValueError(unknown_name("device", device, accepted))
    if kind in ("cpu", "gpu") and detail and not (detail.isdecimal() and int(detail)):
        raise ValueError(
            f"device {device}: the number of devices must be a positive integer, e.g. {kind}:2"
        )
    if kind == "multi-worker" and not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "device 'multi-worker' needs the environment variable TF_CONFIG with the cluster's "
            "addresses and this worker's index: see tensorflow.org/guide/distributed_training"
        )
