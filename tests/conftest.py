"""Two virtual CPU devices, so that what is distributed is really distributed; and a network small
enough for a test."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

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


@pytest.fixture
def golden():
    """golden("plan_x.txt", text): the text must be the file's; UPDATE_GOLDEN=1 rewrites it."""

    def check(name, text):
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text + "\n", encoding="utf-8")
        want = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        have = text.splitlines()
        changed = [
            f"  line {i}:\n    golden {a!r}\n    now    {b!r}"
            for i, (a, b) in enumerate(
                zip(want + [None] * len(have), have + [None] * len(want)), start=1
            )
            if a != b
        ]
        assert not changed, (
            f"{name} has changed:\n"
            + "\n".join(changed[:20])
            + "\nIf only the table's looks changed, accept it with UPDATE_GOLDEN=1 and read the "
            "diff. Never accept a changed number of a published network (released weights would no "
            "longer fit or would answer otherwise) or of a published recipe, if its source does "
            "not say so. Find what changed it."
        )

    return check
