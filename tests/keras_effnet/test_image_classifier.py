import numpy as np
import pytest

from keras_effnet.image_classifier import InputFlags, of_keras_model, open_classifier
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.label_file import write_labels

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)


def network(keras, units, activation, size=8, end=()):
    """A model of one Dense layer on the mean pixel."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 255),
            layers.GlobalAveragePooling2D(),
            layers.Dense(units, activation),
            *end,
        ],
        name="net",
    )


@pytest.mark.parametrize(
    ("units", "activation", "end", "kind"),
    [
        (3, "softmax", None, "softmax"),
        (3, None, None, "logits"),
        (3, None, "Softmax", "softmax"),
        (3, "softmax", "linear", "softmax"),
        (3, "sigmoid", None, "sigmoid"),
        (1, "sigmoid", None, "sigmoid"),
        (1, None, None, "logits"),
    ],
)
def test_the_activation_is_found(keras, units, activation, end, kind):
    if end is not None:
        end = keras.layers.Softmax() if end == "Softmax" else keras.layers.Activation(end)
    classifier = of_keras_model(network(keras, units, activation, end=[end] if end else ()))
    found = classifier.kind_of(classifier.scores(IMAGES))
    assert (found.activation, found.classes) == (kind, units)
    assert classifier.classes == max(2, units)


def test_scores_do_not_depend_on_the_batch(keras):
    classifier = of_keras_model(network(keras, 3, "softmax"))
    scores = classifier.scores(IMAGES)
    assert scores.shape == (5, 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(classifier.scores(IMAGES[2:3]), scores[2:3], atol=1e-6)


def test_flags_replace_the_preprocessing(keras):
    flags = InputFlags(image_size=12, crop=0.5, interpolation="bicubic")
    classifier = of_keras_model(network(keras, 3, "softmax", size=None), None, flags)
    assert classifier.image_input.preprocessing == Preprocessing(12, 0.5, "bicubic")
    assert classifier.image_input.prepare(np.zeros((30, 20, 3), np.uint8)).shape == (12, 12, 3)
    whole = of_keras_model(network(keras, 3, "softmax"), None, InputFlags(crop=0.0))
    assert whole.image_input.preprocessing == Preprocessing(8, None, "bilinear")


def test_a_size_that_the_model_does_not_take_is_an_error(keras):
    with pytest.raises(ValueError, match=r"--image_size=12, but the model takes images of 8 x 8"):
        of_keras_model(network(keras, 3, "softmax"), None, InputFlags(image_size=12))
    with pytest.raises(ValueError, match="does not state its preprocessing"):
        of_keras_model(network(keras, 3, "softmax", size=None))


def test_a_model_that_is_no_classifier_is_an_error(keras):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match=r"not a classifier: its output has shape \(None, 6, 6"):
        of_keras_model(model)


@pytest.mark.parametrize(
    ("model", "weights", "error"),
    [
        ("none.tflite", None, "does not exist"),
        ("broken.tflite", None, "is not a .tflite file"),
        ("broken.tflite", "imagenet", "which has weights: drop one"),
        ("photo.jpg", None, "neither a .keras nor a .tflite file"),
        ("efficientnet-b00", None, "Did you mean 'efficientnet-b0'"),
    ],
)
def test_a_wrong_model_is_one_error(tmp_path, monkeypatch, model, weights, error):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(tmp_path)
    for name in ("broken.tflite", "photo.jpg"):
        (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ValueError, match=error):
        open_classifier(model, weights)


@pytest.mark.slow
@pytest.mark.tensorflow_only("converts by TensorFlow")
def test_a_tflite_scores_as_its_keras_model(keras, tmp_path):
    pytest.importorskip("ai_edge_litert")
    from keras_effnet.litert import metadata
    from tflite.export import export_float32

    model = network(keras, 3, "softmax")
    content = export_float32(model)
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has no class names: give --labels=FILE"):
        open_classifier(str(path))
    write_labels(f"{path}.labels.txt", "abc")
    classifier = open_classifier(str(path), flags=InputFlags(crop=0.875))
    assert classifier.class_names == ("a", "b", "c")
    assert classifier.image_input.preprocessing == Preprocessing(8, 0.875, "bilinear")
    want = of_keras_model(model).scores(IMAGES)
    np.testing.assert_allclose(classifier.scores(IMAGES), want, atol=1e-5)
    assert classifier.kind_of(want).activation == "softmax"
    path.write_bytes(metadata.attach(content, labels=["x", "y", "z"]))
    (tmp_path / "net.tflite.labels.txt").unlink()
    assert open_classifier(str(path)).class_names == ("x", "y", "z")
