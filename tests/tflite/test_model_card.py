"""The model card of a conversion, as it is saved and as ``effnet card`` writes it later."""

import json

import numpy as np
import pytest

import tflite
from keras_effnet.cli import main
from keras_effnet.label_file import write_labels
from tflite.keras_models.files import load_keras

NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run1/ as training leaves it, and m.tflite with its reports, converted from its model."""
    import keras_effnet

    folder = tmp_path_factory.mktemp("card")
    run1 = folder / "run1"
    run1.mkdir()
    variant = keras_effnet.scale("efficientnet-lite0", width=0.2, depth=0.2, image_size=32)
    model = keras_effnet.create_model(variant, classes=10, weights=None)
    model.save(run1 / "model.keras")
    write_labels(run1 / "labels.txt", NAMES)
    record = {
        "recipe": {"name": "photos", "model": "tiny", "weights": ""},
        "phases": [],
        "training_images": 70,
        "run": {"classes": NAMES},
    }
    (run1 / "recipe.json").write_text(json.dumps(record))
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    conversion = tflite.convert(model, preset="float16", evaluation=images, class_names=NAMES)
    _save(conversion, folder)
    return folder


def _save(conversion, folder):
    return tflite.save(
        conversion,
        folder / "m.tflite",
        class_names=NAMES,
        model=str(folder / "run1" / "model.keras"),
    )


def _card(path):
    return json.loads(path.with_name(f"{path.stem}.json").read_text())


def test_the_saved_card_has_training_and_conversion(folder):
    card = _card(folder / "m.tflite.card.md")
    assert card["network"] == "tiny"
    assert card["data"]["training_images"] == 70
    assert card["model"]["class_names"] == NAMES
    assert card["model"]["size_bytes"] == (folder / "m.tflite").stat().st_size
    image = card["model"]["input"]
    assert (image["dtype"], image["crop"], image["mean"]) == ("float32", 0.0, [127.0] * 3)
    report = json.loads((folder / "m.tflite.json").read_text())["report"]
    comparison = card["conversion"]["comparison"]
    assert comparison["agreement"] == report["agreement"]
    assert comparison["converted"]["size"] == report["candidate"]["size"]
    assert any("compared on 8 images" in limit for limit in card["limits"])
    text = (folder / "m.tflite.card.md").read_text()
    assert "library_name" not in text  # Keras cannot load the file
    assert '- "float16"' in text
    assert f"| size in bytes | {report['reference']['size']:,} |" in text


def test_the_command_writes_the_same_card_with_the_license(folder, tmp_path, capsys):
    out = tmp_path / "README.md"
    flags = [f"--model={folder / 'm.tflite'}", f"--workdir={folder / 'run1'}", "--license=mit"]
    assert main(["card", *flags, f"--out={out}"]) == 0, capsys.readouterr().err
    assert _card(out) == {**_card(folder / "m.tflite.card.md"), "license": "mit"}


def test_files_of_another_model_are_refused(folder, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "run1" / "model.keras").rename(copy / "run1" / "other.keras")
    card = ["card", f"--model={copy / 'm.tflite'}", f"--workdir={copy / 'run1'}"]
    for content, message in (
        (None, "model.keras does not exist"),
        (b"PK", "cannot be read as a .keras file"),
    ):
        if content:
            (copy / "run1" / "model.keras").write_bytes(content)
        assert main(card) == 2
        assert message in capsys.readouterr().err
    record = json.loads((copy / "m.tflite.json").read_text())
    for change, message in (
        ({"sha256": "0" * 64}, "is the report of another file"),
        ({"origin": {"model": "other.keras", "model_sha256": "1" * 64}}, "from another model than"),
    ):
        (copy / "m.tflite.json").write_text(json.dumps({**record, **change}))
        assert main(card) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_conversion_is_saved_whatever_lies_beside_its_model(folder, tmp_path):
    model = load_keras(folder / "run1" / "model.keras")
    conversion = tflite.convert(model, preset="float32")
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "recipe.json").write_text("[]")
    (tmp_path / "run1" / "model.keras").write_bytes(b"PK")
    _save(conversion, tmp_path)
    assert _card(tmp_path / "m.tflite.card.md")["recipe"] is None


def test_a_model_that_is_no_classifier_gets_no_card(tmp_path):
    import keras

    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(2, 3)(image)
    conversion = tflite.convert(keras.Model(image, maps), preset="float32")
    path = str(tmp_path / "m.tflite")
    assert tflite.save(conversion, path) == [f"{path}.json", path]
