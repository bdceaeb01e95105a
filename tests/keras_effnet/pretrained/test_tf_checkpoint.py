"""Google's TensorFlow checkpoints: every variable is mapped to its layer, averages first.

The checkpoints are written here with the official names, in TensorFlow's format.
"""

import pathlib

import numpy as np
import pytest

from keras_effnet.network_plan import plan
from keras_effnet.porting import port
from keras_effnet.pretrained import tf_checkpoint
from keras_effnet.pretrained.layer_names import weighted_layers
from tools import foreign

pytestmark = pytest.mark.every_stack

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "tf_checkpoint_variables.txt"
OFFICIAL = foreign.read_golden(GOLDEN)
B0 = plan("efficientnet-b0")


@pytest.fixture
def save(tmp_path):
    """save(shapes, **options): a checkpoint's prefix, and the expected values."""

    def write(shapes, scope="efficientnet-b0", **options):
        prefix = tmp_path / "model.ckpt"
        return prefix, foreign.save_checkpoint(prefix, scope, shapes, **options)

    return write


def _tiny(name):
    """The official names, each with two values: only names are tested."""
    return dict.fromkeys(OFFICIAL[name], (2,))


def _in_order(stored, resolved):
    return [
        array
        for layer in weighted_layers(resolved, tf_checkpoint.NAMES)
        for array in stored[layer.name]
    ]


def _assert_equal(stored, resolved, values):
    have = _in_order(stored, resolved)
    assert len(have) == len(values)
    for array, (name, want) in zip(have, values.items()):
        np.testing.assert_array_equal(array, want, err_msg=name)


def test_a_released_checkpoint_is_ported_exactly(keras, save):
    """Real shapes, averages, optimizer slots, the step: every weight of the model, exactly."""
    prefix, values = save(OFFICIAL["efficientnet-b0"])
    model, report = port(prefix, "efficientnet-b0", source="tensorflow", image_size=32)
    assert (report.mapped, report.total) == (311, 311)
    assert "311 of 311 weights mapped" in str(report)
    assert "Outputs were not compared: tensorflow is not a package" in str(report)
    have = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    _assert_equal(have, B0, values)


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_network_is_mapped_one_to_one(save, name):
    """Includes XL, whose stage 6 has more blocks than the alphabet letters."""
    prefix, values = save(_tiny(name), scope=name)
    _assert_equal(tf_checkpoint.read(prefix, plan(name)), plan(name), values)


def test_variables_without_average_are_read_directly(save):
    prefix, values = save(_tiny("efficientnet-b0"), averages=False)
    _assert_equal(tf_checkpoint.read(prefix, B0), B0, values)


def test_averages_are_preferred_for_each_variable(tmp_path):
    """In some checkpoints the statistics have no average."""
    import tensorflow as tf

    values, want = {}, {}
    for i, name in enumerate(OFFICIAL["efficientnet-b0"]):
        values[f"efficientnet-b0/{name}"] = want[name] = np.float32([i, 0])
        if "moving" not in name:
            average = np.float32([i, 1])
            values[f"efficientnet-b0/{name}/ExponentialMovingAverage"] = want[name] = average
    _save(tf, tmp_path / "x", values)
    _assert_equal(tf_checkpoint.read(tmp_path / "x", B0), B0, want)


def _save(tf, prefix, values):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(v) for v in values.values()],
    )


@pytest.mark.parametrize("moved", ["head/dense", "head/"])
def test_a_renamed_head_scope_is_accepted(save, moved):
    shapes = {
        name.replace(moved, moved.replace("head", "head_1")): shape
        for name, shape in _tiny("efficientnet-b0").items()
    }
    prefix, values = save(shapes)
    _assert_equal(tf_checkpoint.read(prefix, B0), B0, values)


def test_any_scope_and_any_file_of_the_checkpoint_work(save, tmp_path):
    prefix, values = save(_tiny("efficientnet-b0"), scope="noisy-student")
    for path in (prefix, str(prefix), f"{prefix}.index", tmp_path):
        _assert_equal(tf_checkpoint.read(path, B0), B0, values)


def test_optimizer_slots_are_skipped(tmp_path):
    import tensorflow as tf

    values = {f"efficientnet-b0/{n}": np.zeros(2, "float32") for n in OFFICIAL["efficientnet-b0"]}
    for slot in ("RMSProp", "RMSProp_1", "Momentum", "Adam", "Adam_1"):
        values[f"efficientnet-b0/stem/conv2d/kernel/{slot}"] = np.ones(2, "float32")
    values |= {"global_step": np.int64(1), "beta1_power": np.float32(0.9)}
    _save(tf, tmp_path / "x", values)
    assert not any(array.any() for array in _in_order(tf_checkpoint.read(tmp_path / "x", B0), B0))


def test_without_top_the_classifier_is_skipped(save):
    prefix, _ = save(_tiny("efficientnet-b0"))
    stored = tf_checkpoint.read(prefix, B0, include_top=False)
    assert "predictions" not in stored
    assert len(stored["top_bn"]) == 4


def test_missing_and_left_over_variables_are_named(save):
    shapes = _tiny("efficientnet-b0")
    for name in ("blocks_3/se/conv2d/bias", "stem/tpu_batch_normalization/moving_variance"):
        del shapes[name]
    shapes["blocks_16/conv2d/kernel"] = shapes["blocks_3/attention/kernel"] = (2,)
    prefix, _ = save(shapes, averages=False, slots=False)
    with pytest.raises(ValueError, match="does not hold efficientnet-b0: 2 missing: ") as error:
        tf_checkpoint.read(prefix, B0)
    message = str(error.value)
    assert "2 left over: " in message
    for name in (
        "blocks_3/se/conv2d/bias",
        "stem/tpu_batch_normalization/moving_variance",
        "efficientnet-b0/blocks_16/conv2d/kernel",
        "efficientnet-b0/blocks_3/attention/kernel",
    ):
        assert name in message


def test_another_variants_checkpoint_is_rejected(save):
    prefix, _ = save(_tiny("efficientnet-b2"), scope="efficientnet-b2")
    with pytest.raises(ValueError, match=r"left over: .*blocks_22/conv2d/kernel"):
        tf_checkpoint.read(prefix, B0)


def test_files_that_are_not_checkpoints_are_rejected(save, tmp_path):
    import tensorflow as tf

    prefix, _ = save(_tiny("efficientnet-b0"))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    index = tmp_path / "model.ckpt.index"
    whole = data.read_bytes(), index.read_bytes()

    def rejected(match, path=prefix):
        with pytest.raises(ValueError, match=match):
            tf_checkpoint.read(path, B0)
        data.write_bytes(whole[0])
        index.write_bytes(whole[1])

    data.write_bytes(whole[0][:1000])
    rejected("is not a complete TensorFlow checkpoint")
    index.write_bytes(whole[1][:1000])
    rejected("is not a complete TensorFlow checkpoint")
    index.write_bytes(b"no checkpoint at all")
    rejected("is not a complete TensorFlow checkpoint")
    bits = bytes(
        byte ^ 1 for byte in whole[0][400:440]
    )  # of a complete variable; the checksum detects it
    data.write_bytes(whole[0][:400] + bits + whole[0][440:])
    rejected("is not a complete TensorFlow checkpoint")
    data.unlink()
    rejected("is not a complete TensorFlow checkpoint")

    (tmp_path / "other.ckpt.index").write_bytes(whole[1])
    rejected(r"holds 2 checkpoints \(model\.ckpt\.index, other\.ckpt\.index\)", tmp_path)
    (tmp_path / "empty").mkdir()
    rejected("holds no checkpoint", tmp_path / "empty")
    rejected("is not a TensorFlow checkpoint: there is no", tmp_path / "nowhere.ckpt")
    _save(tf, tmp_path / "resnet", {"resnet/conv1/kernel": np.zeros(2, "float32")})
    rejected("is not a checkpoint of Google's EfficientNet code", tmp_path / "resnet")
