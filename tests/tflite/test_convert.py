import json
import os

import numpy as np
import pytest

import tflite
from tflite import convert as convert_function  # the function: it has its module's name
from tflite.convert import check_writable


def test_int8_in_one_call(model, images, int8_content):
    lines = []
    made = tflite.convert(model, calibration=images, progress=lines.append)
    assert made.tflite == int8_content
    assert made.plan.calibration_images == 16
    assert "the calibration images" in made.report.source
    assert any(line.startswith("Quantizing") for line in lines)
    json.dumps(made.as_dict())


def test_verification_images_are_reported_on(model, images):
    labels = np.arange(8) % 10
    made = tflite.convert(model, calibration=images, verification=(images[:8], labels))
    assert made.report.images == 8
    assert made.report.int8.top1 is not None


def test_float32_in_one_call(model, float_content, images):
    made = tflite.convert(model, mode="float32")
    assert made.tflite == made.float_tflite == float_content
    assert made.plan is made.report is None
    assert tflite.convert(model, mode="float32", verification=images).report.int8 is None


def test_bad_input_is_an_error_before_anything_slow(model, images, monkeypatch):
    def slow(*_, **__):
        raise AssertionError("converted")

    monkeypatch.setitem(convert_function.__globals__, "float_tflite", slow)

    def fails(match, **options):
        with pytest.raises(ValueError, match=match):
            tflite.convert(model, **{"calibration": images, **options})

    fails("Unknown mode 'int88'. Did you mean 'int8'", mode="int88")
    fails("needs calibration images", calibration=None)
    fails("takes no calibration images", mode="float32")
    fails("3 class names for a model with 10 outputs", class_names=["a", "b", "c"])
    fails(
        "labels run from 0 to 10, and the model has 10", verification=(images, np.arange(16) % 11)
    )
    fails("image_size 64 does not fit", image_size=64)
    fails(r"scaled to \[0, 1\]", calibration=images / 255)
    fails("has 3 images and needs 16", calibration=images[:3])


def test_saving_leaves_whole_files_and_nothing_beside(model, tmp_path):
    made = tflite.convert(model, mode="float32")
    names = [f"class {i}" for i in range(10)]
    tflite.save(made, tmp_path / "m.tflite", class_names=names)
    assert sorted(os.listdir(tmp_path)) == ["m.tflite", "m.tflite.json", "m.tflite.labels.txt"]
    assert (tmp_path / "m.tflite").read_bytes() == made.tflite
    assert json.loads((tmp_path / "m.tflite.json").read_text())["mode"] == "float32"
    assert (tmp_path / "m.tflite.labels.txt").read_text().splitlines() == names


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    made = tflite.convert(model, mode="float32")
    (tmp_path / "m.tflite").write_bytes(b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        tflite.save(made, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == ["m.tflite"]
    assert (tmp_path / "m.tflite").read_bytes() == b"old"


def test_places_that_cannot_be_written_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "m.tflite", "/proc/m.tflite"):
        with pytest.raises(ValueError, match=r"folder|cannot be written"):
            check_writable(path)
    check_writable(tmp_path / "m.tflite")
    assert not os.listdir(tmp_path)
