"""What the demo page shows of a photo is what the models give."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ai_edge_quantizer")  # writes the .tflite

from keras_effnet import create_model
from keras_effnet.cli import main
from keras_effnet.demo.classification import explain_photo, open_demo
from keras_effnet.image_preprocessing import preprocess, preprocessing
from keras_effnet.saliency import grad_cam, overlay
from tests.conftest import TINY

NAMES = ["cat", "dog", "fox", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, a tiny model with four classes, and its float32 .tflite."""
    import keras

    import tflite

    folder = tmp_path_factory.mktemp("demo")
    keras.utils.set_random_seed(0)
    model = create_model(TINY, weights=None, input_shape=(32, 32, 3), classes=4)
    model.save(folder / "model.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    tflite.save(tflite.convert(model, preset="float32", class_names=NAMES), folder / "my.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def demo(folder):
    return open_demo(str(folder / "model.keras"), tflite=str(folder / "my.tflite"))


@pytest.mark.slow
def test_predictions_are_those_of_the_models(demo, folder):
    explanation = explain_photo(demo, str(folder / "photo.png"))
    model = demo.keras_model
    pixels = np.asarray(Image.open(folder / "photo.png"))
    prepared = preprocess(pixels, preprocessing(model))
    scores = model.predict(prepared[None].astype("float32"), verbose=0)[0]
    order = np.argsort(-scores)
    keras_, litert = explanation.predictions
    assert list(keras_.best) == list(litert.best) == [NAMES[i] for i in order]
    np.testing.assert_allclose(list(keras_.best.values()), scores[order], rtol=1e-5)
    np.testing.assert_allclose(list(litert.best.values()), scores[order], rtol=1e-4)
    assert keras_.milliseconds > 0 < litert.milliseconds


@pytest.mark.slow
def test_pictures_are_the_prepared_image_and_its_grad_cam(demo, folder):
    explanation = explain_photo(demo, str(folder / "photo.png"))
    model = demo.keras_model
    pixels = np.asarray(Image.open(folder / "photo.png"))
    prepared = preprocess(pixels, preprocessing(model))
    np.testing.assert_array_equal(explanation.prepared, prepared)
    expected = overlay(prepared, grad_cam(model, prepared))
    np.testing.assert_array_equal(explanation.heat, expected)


@pytest.mark.slow
def test_classes_of_the_same_name_are_told_apart_by_their_number(demo, folder):
    twice = dataclasses.replace(demo, class_names=("cat", "crane", "fox", "crane"))
    best = explain_photo(twice, str(folder / "photo.png")).predictions[0].best
    assert sorted(best) == ["cat", "crane (1)", "crane (3)", "fox"]


@pytest.mark.slow
def test_a_tflite_of_another_model_is_an_error(folder, tmp_path):
    other = create_model(TINY, weights=None, input_shape=(32, 32, 3), classes=3)
    path = tmp_path / "other.keras"
    other.save(path)
    with pytest.raises(
        ValueError, match=r"my.tflite has 4 classes and --model=.*3: give a .tflite"
    ):
        open_demo(str(path), tflite=str(folder / "my.tflite"))


@pytest.mark.slow
def test_a_file_that_is_not_an_image_is_an_error(demo, folder):
    path = folder / "notes.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.png"):
        explain_photo(demo, str(path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=99999"], "'99999' is not a port"),
        (["--tflite=my.keras"], "is not a .tflite file"),
        (["--labels=l.txt", "--label_format=wnid"], "drop it, or --labels"),
    ],
    ids=["port", "tflite", "labels"],
)
def test_bad_flags_are_one_line_before_anything_slow(flags, message, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["demo", "--model=missing.keras", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_an_error(capsys, monkeypatch):
    import socket

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--model=missing.keras", f"--port={port}"]) == 2
    assert f"--port={port} cannot be used (Address already in use)" in capsys.readouterr().err


def test_without_gradio_the_error_names_the_extra(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "--model=missing.keras"]) == 2
    assert "pip install 'keras_effnet[demo]'" in capsys.readouterr().err
