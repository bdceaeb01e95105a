import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.diagnostics import check_model


@pytest.fixture
def mine(tiny, keras):
    return create_model(tiny, classes=5)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def _checks(findings):
    return [finding.check for finding in findings]


def test_a_correct_model_and_batch_have_no_findings(mine, pixels):
    names = ["a", "b", "c", "d", "e"]
    assert check_model(mine, pixels, labels=[0, 4], class_names=names) == []
    assert check_model(mine, pixels.astype(np.uint8)) == []
    assert check_model(mine) == []


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (lambda x: x / 255, "scaled-twice", "divided by 255 already"),
        (lambda x: x / 127.5 - 1, "scaled-twice", "normalized already"),
        (lambda x: x * 257, "range", "16 bits"),
        (lambda x: x / 0, "range", "not finite"),
        (lambda x: x[0], "shape", "image[None]"),
        (lambda x: x[:, :20], "shape", "change_image_size"),
        (lambda x: x.astype(str), "range", "give numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*divide by zero|.*invalid value:RuntimeWarning")
def test_wrong_batches_are_found(mine, pixels, change, check, message):
    findings = check_model(mine, change(pixels))
    assert check in _checks(findings)
    assert message in " ".join(map(str, findings))


def test_raw_pixels_for_a_model_without_normalization(tiny, keras, pixels):
    bare = create_model(tiny, classes=5, include_preprocessing=False)
    assert _checks(check_model(bare, pixels)) == ["not-normalised"]
    assert check_model(bare, pixels / 127.5 - 1) == []


def test_a_second_normalization_is_found(tiny, keras):
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    twice = create_model(tiny, classes=5, input_tensor=scaled)
    (finding,) = check_model(twice)
    assert finding.check == "normalised-twice"
    nested = keras.Model(inputs, create_model(tiny, classes=5)(scaled))
    assert _checks(check_model(nested)) == ["normalised-twice"]


def test_training_batch_norms_after_frozen_convolutions(mine):
    for layer in mine.layers:
        layer.trainable = "Conv" not in type(layer).__name__
    (finding,) = check_model(mine)
    assert finding.check == "batch-norm-trains-while-frozen"
    assert "keras_effnet.freeze" in str(finding)


def test_a_network_unfrozen_from_the_top_has_no_findings(mine):
    mine.trainable = False
    mine.trainable = True
    for layer in mine.layers:
        layer.trainable = layer.name.startswith(("top", "predictions"))
    assert check_model(mine) == []


def test_a_half_precision_classifier_is_found(keras, tiny):
    keras.mixed_precision.set_global_policy("mixed_float16")
    backbone = create_model(tiny, include_top=False, pooling="avg")
    theirs = keras.Model(
        backbone.input, keras.layers.Dense(5, activation="softmax")(backbone.output)
    )
    assert _checks(check_model(theirs)) == ["half-precision-classifier"]
    assert check_model(create_model(tiny, classes=5)) == []  # computes in float32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], "labels run from 0 to 5"),
        ([1, 5], "start at 1"),
        ([-1, 2], "labels run from -1"),
        (np.eye(7)[:2], "5 classes, but the labels have 7"),
    ],
)
def test_labels_out_of_range_are_found(mine, labels, message):
    (finding,) = check_model(mine, labels=labels)
    assert finding.check == "class-count"
    assert message in str(finding)


@pytest.mark.parametrize("classes", [1001, 21843])
def test_1001_and_21843_classes_point_to_label_map(keras, tiny, classes):
    model = create_model(tiny, classes=classes)
    (finding,) = check_model(model, class_names=["x"] * 1000)
    assert f"keras_effnet.label_map({classes})" in str(finding)


def test_a_model_size_that_differs_from_the_evaluation_size(keras, tiny, pixels, tmp_path):
    create_model(tiny, classes=5, input_shape=(64, 64, 3)).save(tmp_path / "x.keras")
    model = create_model(tiny, classes=5, input_shape=(32, 32, 3), weights=tmp_path / "x.keras")
    (finding,) = check_model(model, pixels)
    assert finding.check == "evaluation-size"
    assert "change_image_size(model, 64)" in str(finding)


def test_a_batch_size_that_differs_from_the_evaluation_size(keras, pixels):
    from keras_effnet.image_preprocessing import Preprocessing

    model = create_model(
        "efficientnetv2-b0",
        input_shape=(None, None, 3),
        classes=2,
        preprocessing=Preprocessing(64, 0.875, "bicubic"),
    )
    (finding,) = check_model(model, pixels)
    assert finding.check == "evaluation-size"
    assert "64 x 64" in str(finding)
    assert check_model(model, np.repeat(np.repeat(pixels, 2, 1), 2, 2)) == []
