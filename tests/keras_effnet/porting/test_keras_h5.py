"""Keras files of other projects: qubvel's, leondgarse's, keras.applications' own."""

import numpy as np
import pytest

from keras_effnet.network_plan import plan
from keras_effnet.porting import keras_h5, port
from keras_effnet.pretrained.layer_names import weighted_layers
from tools import foreign

OURS_THERE = {
    "qubvel": (
        "efficientnet-b0",
        keras_h5.QUBVEL,
        ("block1a_dwconv", "block2a_expand_conv", "block7a_se_reduce", "probs"),
    ),
    "leondgarse": (
        "efficientnetv2-b0",
        keras_h5.LEONDGARSE,
        (
            "stack_0_block0_fu_conv",
            "stack_1_block0_sortcut_conv",
            "stack_3_block2_MB_dw_",
            "stack_5_block7_se_2_conv",
            "post_bn",
        ),
    ),
}


def _numbered(name, names):
    """{source layer name: arrays}, each array with different numbers."""
    counts = {"conv": 1, "biased conv": 2, "depthwise": 1, "batch_norm": 4, "dense": 2}
    return {
        layer.source_name: [np.float32([i, j]) for j in range(counts[layer.kind])]
        for i, layer in enumerate(weighted_layers(plan(name), names))
    }


@pytest.mark.parametrize("whole_model", [False, True], ids=["weights", "whole model"])
@pytest.mark.parametrize("source", OURS_THERE)
def test_every_layer_of_a_file_is_mapped(tmp_path, source, whole_model):
    name, names, some = OURS_THERE[source]
    theirs = _numbered(name, names)
    assert set(some) <= set(theirs)
    foreign.save_h5(tmp_path / "x.h5", theirs, whole_model=whole_model)
    stored = keras_h5.read(tmp_path / "x.h5", plan(name), names)
    assert list(stored) == [layer.name for layer in weighted_layers(plan(name), names)]
    for have, want in zip(stored.values(), theirs.values()):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("source", OURS_THERE)
def test_missing_and_left_over_layers_are_named(tmp_path, source):
    name, names, some = OURS_THERE[source]
    theirs = _numbered(name, names)
    for layer in some[:2]:
        theirs["new_" + layer] = theirs.pop(layer)
    foreign.save_h5(tmp_path / "x.h5", theirs)
    with pytest.raises(ValueError, match=f"does not hold {name}: 2 missing: ") as error:
        keras_h5.read(tmp_path / "x.h5", plan(name), names)
    for layer in some[:2]:
        assert f" {layer}" in str(error.value)
        assert f"new_{layer}" in str(error.value)


def test_other_files_are_rejected(tmp_path):
    resolved = plan("efficientnet-b0")
    theirs = _numbered("efficientnet-b0", keras_h5.QUBVEL)
    foreign.save_h5(tmp_path / "x.h5", theirs)
    whole = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.h5 is"):
        keras_h5.read(tmp_path / "half.h5", resolved, keras_h5.QUBVEL)
    (tmp_path / "text.h5").write_text("no weights at all")
    with pytest.raises(ValueError, match=r"text\.h5 is not an HDF5 file"):
        keras_h5.read(tmp_path / "text.h5", resolved, keras_h5.QUBVEL)
    with pytest.raises(ValueError, match=r"missing: stack_0_block0_MB_dw_"):
        keras_h5.read(tmp_path / "x.h5", resolved, keras_h5.LEONDGARSE)
    with pytest.raises(ValueError, match=r"missing: block1b_dwconv"):
        keras_h5.read(tmp_path / "x.h5", plan("efficientnet-b1"), keras_h5.QUBVEL)


def test_without_top_a_classifier_in_the_file_is_skipped(tmp_path):
    theirs = _numbered("efficientnet-b0", keras_h5.QUBVEL)
    foreign.save_h5(tmp_path / "x.h5", theirs)
    resolved = plan("efficientnet-b0")
    stored = keras_h5.read(tmp_path / "x.h5", resolved, keras_h5.QUBVEL, include_top=False)
    assert "predictions" not in stored
    del theirs["probs"]
    foreign.save_h5(tmp_path / "notop.h5", theirs)
    assert list(
        keras_h5.read(tmp_path / "notop.h5", resolved, keras_h5.QUBVEL, include_top=False)
    ) == list(stored)


@pytest.mark.slow
@pytest.mark.tensorflow_only("JAX compiles every operation of a whole network")
@pytest.mark.parametrize("source", OURS_THERE)
def test_ported_networks_give_equal_outputs(keras, tmp_path, source):
    from keras_effnet.constructors import create_model

    name, names, _ = OURS_THERE[source]
    before = create_model(name, classes=7, input_shape=(64, 64, 3))
    foreign.tame(before)
    theirs = {
        p.source_name: before.get_layer(p.name).get_weights()
        for p in weighted_layers(plan(name), names)
    }
    foreign.save_h5(tmp_path / "x.h5", theirs)
    after, report = port(tmp_path / "x.h5", name, source=source, image_size=64)
    assert report.mapped == report.total
    images = foreign.random_images(64)
    want = np.array(before(images))
    assert np.abs(want[0] - want[1]).max() > 1e-3
    np.testing.assert_allclose(np.array(after(images)), want, atol=1e-6)


@pytest.mark.tensorflow_only("JAX compiles every operation of a whole network")
@pytest.mark.parametrize(
    ("name", "function"),
    [
        pytest.param(
            *("efficientnet-b0", "EfficientNetB0"),
            marks=[pytest.mark.slow, pytest.mark.every_stack],
        ),
        pytest.param("efficientnetv2-b0", "EfficientNetV2B0", marks=pytest.mark.slow),
        pytest.param("efficientnetv2-s", "EfficientNetV2S", marks=pytest.mark.exhaustive),
    ],
)
def test_keras_applications_files_match_block_by_block(keras, tmp_path, name, function):
    theirs = getattr(keras.applications, function)(weights=None, classes=6, input_shape=(64, 64, 3))
    foreign.tame(theirs)
    if keras.__version__.startswith("2."):
        theirs.save_weights(str(tmp_path / "x.h5"), save_format="h5")
        path = tmp_path / "x.h5"
    else:
        path = tmp_path / "x.weights.h5"
        theirs.save_weights(str(path))
    model, report = port(path, name, source="keras-applications", image_size=64)
    assert model.output_shape == (None, 6)
    assert report.worst.relative <= 1e-4, str(report)
    assert report.differences[-1].place == "logits"
