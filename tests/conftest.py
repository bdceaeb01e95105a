"""Two virtual CPU devices, so that what is distributed is really distributed; and a network small
enough for a test."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    import tensorflow as tf

    _CPU = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_effnet.variants import V2, Normalization, Stage, Variant

GOLDEN = pathlib.Path(__file__).parent / "golden"

TINY = Variant(
    name="tiny",
    family=V2,
    stages=(
        Stage("fused", 3, 1, 1, 8, 1, 0.0),
        Stage("mbconv", 3, 2, 4, 16, 2, 0.25),
    ),
    stem_filters=8,
    width=1.0,
    depth=1.0,
    image_size=32,
    dropout_rate=0.2,
    top1=None,
    normalization=Normalization((128.0,) * 3, (128.0,) * 3),
    head_filters=32,
)


@pytest.fixture
def tiny():
    """A two-stage V2 variant with every kind of layer in it."""
    return TINY
