import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from keras_effnet.cli import main
from keras_effnet.label_file import write_labels
from keras_effnet.provenance import file_sha256

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with a folder of 4 images for each colour, one red image among the green ones; and
    net.keras, which recognizes colours; its outputs are in another order than the folders.
    """
    import keras

    folder = tmp_path_factory.mktemp("evaluate")
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(4):
            shown = COLOURS["red"] if (name, i) == ("green", 3) else colour
            Image.new("RGB", (20, 16), shown).save(folder / "photos" / name / f"{i}.png")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 50),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax"),
        ],
        name="colours",
    )
    model.layers[-1].set_weights([np.eye(3), np.zeros(3)])
    model.save(folder / "net.keras")
    write_labels(folder / "labels.txt", ["red", "green", "blue"])
    return folder


def evaluate(folder, *flags, data="photos", model="net.keras"):
    return main(["evaluate", f"--model={folder / model}", f"--data={folder / data}", *flags])


def test_a_tflite_without_litert_is_an_error_of_one_line(folder, monkeypatch, capsys):
    for name in ["ai_edge_litert", *(n for n in sys.modules if n.startswith("ai_edge_litert."))]:
        monkeypatch.setitem(sys.modules, name, None)
    (folder / "net.tflite").write_bytes(b"\0\0\0\0TFL3")
    assert evaluate(folder, model="net.tflite") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("effnet: .tflite files need ai-edge-litert")
    assert line.endswith('pip install "keras_effnet[tflite]"')


def test_a_keras_file_is_evaluated_and_its_files_are_written(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(folder, f"--out={out}") == 0
    printed = capsys.readouterr().out
    assert "the model's 3 classes, in another order: matched by name" in printed
    assert "top-1             91.67%  64.61% to 98.51% (95 %)" in printed
    assert "1  green as red" in printed
    record = json.loads((out / "evaluation.json").read_text())
    assert record["metrics"]["images"] == 12
    assert record["model_sha256"] == file_sha256(folder / "net.keras")
    (worst,) = record["worst_mistakes"]
    assert worst["image"] == "green/3.png"
    assert (worst["label"], worst["prediction"]) == ("green", "red")
    assert "data:image/" in (out / "evaluation.html").read_text()
    assert evaluate(folder, f"--out={out}") == 0  # its own files are replaced


def test_a_damaged_image_is_named_and_left_out(folder, tmp_path, capsys):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "red" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = f"--data={tmp_path / 'photos'}"
    assert main(["evaluate", f"--model={folder / 'net.keras'}", data]) == 0
    printed = capsys.readouterr().out
    assert "11 images" in printed
    assert "not evaluated:" in printed
    assert "red/0.png" in printed


def test_the_part_that_training_held_out_is_evaluated(folder, capsys):
    assert evaluate(folder, "--holdout=0.5", "--seed=3") == 0
    assert "photos: 6 images" in capsys.readouterr().out


def test_all_images_of_a_training_are_noted(folder, tmp_path, capsys):
    shutil.copy(folder / "net.keras", tmp_path)
    shutil.copy(folder / "labels.txt", tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    words = ["evaluate", f"--model={tmp_path / 'net.keras'}", f"--data={folder / 'photos'}"]
    for flags, noted in (([], True), (["--holdout=0.5"], False)):
        assert main([*words, *flags]) == 0
        out = capsys.readouterr().out
        assert ("--holdout=0.2 evaluates on those that effnet-train held out" in out) == noted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=nowhere"], "data 'nowhere' does not exist"),
        (["--split=test"], "Unknown split 'test'"),
        (["--holdout=2"], "holdout must be at least 0"),
        (["--check"], "--check compares released weights"),
        (["--weights=imagenet"], "a file that already has weights: drop one"),
        (["--model=nowhere.keras"], "'nowhere.keras' does not exist: give the path"),
        (["--crop=1.5"], "1.5 is out of range"),
        (["--interpolation=cubic"], "Did you mean 'bicubic'"),
        (["--image_size=9"], "takes images of 8 x 8 pixels"),
        (["--max_corupt=1"], "Did you mean '--max_corrupt'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, flags, message, capsys):
    assert evaluate(folder, *flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_images_without_labels_are_one_line_and_status_2(folder, capsys):
    for flags in ([], ["--holdout=0.5"]):
        assert evaluate(folder, *flags, data="photos/red") == 2
        err = capsys.readouterr().err
        assert "has no labels" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "no images"),
        (["red", "gren"], r"'gren'"),
    ],
)
def test_data_that_does_not_fit_is_one_line(folder, tmp_path, capsys, folders, message):
    (tmp_path / "photos").mkdir()
    for name in folders:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "0.png")
    data = f"--data={tmp_path / 'photos'}"
    assert main(["evaluate", f"--model={folder / 'net.keras'}", data]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
