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


def test_a_model_used_as_it_should_be_has_no_findings(mine, pixels):
    names = ["a", "b", "c", "d", "e"]
    assert check_model(mine, pixels, labels=[0, 4], class_names=names) == []
    assert check_model(mine, pixels.astype(np.uint8)) == []
    assert check_model(mine) == []


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (lambda x: x / 255, "scaled-twice", "divided by 255 already"),
        (lambda x: x / 127.5 - 1, "scaled-twice", "normalised already"),
        (lambda x: x * 257, "range", "16 bits"),
        (lambda x: x / 0, "range", "not finite"),
        (lambda x: x[0], "shape", "image[None]"),
        (lambda x: x[:, :20], "shape", "change_image_size"),
        (lambda x: x.astype(str), "range", "give numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*divide by zero|.*invalid value:RuntimeWarning")
def test_a_batch_that_is_wrong_is_named(mine, pixels, change, check, said):
    findings = check_model(mine, change(pixels))
    assert check in _checks(findings)
    assert said in " ".join(map(str, findings))


def test_raw_pixels_for_a_model_that_does_not_normalise(tiny, keras, pixels):
    bare = create_model(tiny, classes=5, include_preprocessing=False)
    assert _checks(check_model(bare, pixels)) == ["not-normalised"]
    assert check_model(bare, pixels / 127.5 - 1) == []


def test_a_second_normalisation_in_front(tiny, keras):
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    twice = create_model(tiny, classes=5, input_tensor=scaled)
    (finding,) = check_model(twice)
    assert finding.check == "normalised-twice"
    nested = keras.Model(inputs, create_model(tiny, classes=5)(scaled))
    assert _checks(check_model(nested)) == ["normalised-twice"]


def test_batch_norms_that_train_behind_frozen_convolutions(mine):
    for layer in mine.layers:
        layer.trainable = "Conv" not in type(layer).__name__
    (finding,) = check_model(mine)
    assert finding.check == "batch-norm-trains-while-frozen"
    assert "keras_effnet.freeze" in str(finding)


def test_a_network_thawed_from_the_top_is_fine(mine):
    mine.trainable = False
    mine.trainable = True
    for layer in mine.layers:
        layer.trainable = layer.name.startswith(("top", "predictions"))
    assert check_model(mine) == []


def test_a_classifier_in_half_precision(keras, tiny):
    keras.mixed_precision.set_global_policy("mixed_float16")
    body = create_model(tiny, include_top=False, pooling="avg")
    theirs = keras.Model(body.input, keras.layers.Dense(5, activation="softmax")(body.output))
    assert _checks(check_model(theirs)) == ["half-precision-classifier"]
    assert check_model(create_model(tiny, classes=5)) == []  # ours computes in float32


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 5], "labels run from 0 to 5"),
        ([1, 5], "count from 1"),
        ([-1, 2], "labels run from -1"),
        (np.eye(7)[:2], "5 classes and the labels 7"),
    ],
)
def test_labels_that_do_not_fit(mine, labels, said):
    (finding,) = check_model(mine, labels=labels)
    assert finding.check == "class-count"
    assert said in str(finding)


@pytest.mark.parametrize("classes", [1001, 21843])
def test_heads_with_more_classes_than_imagenet_know_the_label_map(keras, tiny, classes):
    model = create_model(tiny, classes=classes)
    (finding,) = check_model(model, class_names=["x"] * 1000)
    assert f"keras_effnet.label_map({classes})" in str(finding)


def test_a_model_of_another_size_than_its_weights_were_evaluated_at(keras, tiny, pixels, tmp_path):
    create_model(tiny, classes=5, input_shape=(64, 64, 3)).save(tmp_path / "x.keras")
    model = create_model(tiny, classes=5, input_shape=(32, 32, 3), weights=tmp_path / "x.keras")
    (finding,) = check_model(model, pixels)
    assert finding.check == "evaluation-size"
    assert "change_image_size(model, 64)" in str(finding)


def test_another_size_than_the_weights_were_evaluated_at(keras, pixels):
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
