import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

import tflite
from keras_effnet.litert import metadata
from tflite.cli.compare import main_compare, main_report


@pytest.fixture
def files(tmp_path, float_content, int8_content):
    """A converted file, its float model, ten class folders of two images each, and a label file."""
    (tmp_path / "my.tflite").write_bytes(int8_content)
    (tmp_path / "float.tflite").write_bytes(float_content)
    rng = np.random.default_rng(0)
    for c in range(10):
        (tmp_path / "photos" / f"c{c}").mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"c{c}" / f"{i}.png")
    (tmp_path / "labels.txt").write_text("".join(f"c{c}\n" for c in range(10)))
    return tmp_path


def _report(files, model="my.tflite", **flags):
    flags = {"float": files / "float.tflite", "data": files / "photos", **flags}
    words = [f"--{k}={v}" for k, v in flags.items() if v is not None]
    return main_report([str(files / model), *words])


def _compare(files, first, second, **flags):
    words = [f"--{k}={v}" for k, v in {"data": files / "photos", **flags}.items()]
    return main_compare([str(files / first), str(files / second), *words])


def _content(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_report_is_written_next_to_the_model(files, capfd):
    record = {"preset": "int8_mixed", "plan": ["a plan"]}
    (files / "my.tflite.json").write_text(json.dumps(record))
    assert _report(files, labels=files / "labels.txt") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "top-1" in out
    assert "my.report.html" in out
    content = _content(files / "my.report.json")
    assert content["report"]["images"] == 20
    assert content["report"]["names"] == ["float32", "int8_mixed"]
    assert content["record"] == record
    assert content["class_names"][3] == "c3"
    assert "a plan" in (files / "my.report.html").read_text()
    assert _content(files / "my.tflite.json") == record


def test_the_record_of_another_model_is_ignored(files, int8_content, capfd):
    for sha256, is_used in (("0" * 64, False), (hashlib.sha256(int8_content).hexdigest(), True)):
        record = {"preset": "int8_mixed", "sha256": sha256}
        (files / "my.tflite.json").write_text(json.dumps(record))
        assert _report(files) == 0
        assert ("is of another .tflite" in capfd.readouterr().out) != is_used
        names = _content(files / "my.report.json")["report"]["names"]
        assert names == ["float32", "int8_mixed" if is_used else "my.tflite"]


def test_a_keras_file_is_converted_first(files, model, capfd):
    model.save(files / "my.keras")
    assert _report(files, float=files / "my.keras", limit=10, out=files / "r.html") == 0
    assert "Converting" in capfd.readouterr().out
    content = _content(files / "r.json")
    assert content["report"]["images"] == 10
    assert content["report"]["candidate"]["top1"] is not None


def test_a_saved_model_folder_is_converted_first(files, model):
    model.export(files / "saved", verbose=False)
    assert _report(files, float=files / "saved", limit=10, out=files / "r.html") == 0
    report = _content(files / "r.json")["report"]
    assert report["agreement"] == 1.0 or report["kl_divergence"] < 0.01


def test_labels_in_the_file_name_the_classes(files, int8_content):
    names = [f"c{c}" for c in range(10)]
    (files / "my.tflite").write_bytes(metadata.attach(int8_content, labels=names))
    assert _report(files) == 0
    assert _content(files / "my.report.json")["class_names"] == names


def test_folders_that_are_not_classes_have_no_top1(files, capfd):
    os.rename(files / "photos" / "c9", files / "photos" / "other")
    for image in (files / "photos" / "other").iterdir():
        image.unlink()
    assert _report(files) == 0
    assert "9 classes of images, 10 of the model: top-1 is not measured" in capfd.readouterr().out
    assert _content(files / "my.report.json")["report"]["drop"] is None
    for c in range(9):
        os.rename(files / "photos" / f"c{c}" / "0.png", files / f"{c}.png")
    assert _report(files, data=files, out=files / "photos" / "r.html") == 2  # folders beside images


def test_a_flat_folder_has_no_top1(files):
    for c in range(10):
        os.rename(files / "photos" / f"c{c}" / "0.png", files / "photos" / f"{c}.png")
        (files / "photos" / f"c{c}" / "1.png").unlink()
    assert _report(files) == 0
    assert _content(files / "my.report.json")["report"]["candidate"]["top1"] is None


def test_each_model_gets_the_images_in_its_own_size(files, tiny, build, capfd):
    (files / "large.tflite").write_bytes(
        tflite.export_float32(build(tiny, input_shape=(40, 40, 3)))
    )
    assert _compare(files, "my.tflite", "large.tflite", limit=6) == 0
    content = _content(files / "large.compare.json")
    assert content["image_sizes"] == [[32, 32], [40, 40]]
    assert content["report"]["names"] == ["my.tflite", "large.tflite"]
    assert content["blocks"] == []
    assert "large.tflite" in capfd.readouterr().out


def test_bad_input_prints_one_line_and_writes_nothing(files, tiny, build, int8_content, capfd):
    (files / "cut.tflite").write_bytes(int8_content[: len(int8_content) // 2])
    (files / "five.tflite").write_bytes(tflite.export_float32(build(tiny, classes=5)))
    (files / "short.txt").write_text("a\nb\n")
    (files / "empty").mkdir()
    (files / "l.html").write_text("a\nb\n")
    (files / "mine.html").write_text("my page")
    (files / "settings.json").write_text("{}")
    before = sorted(os.listdir(files))
    capfd.readouterr()

    def fails(message, status):
        out, err = capfd.readouterr()
        assert status == 2
        assert err.startswith("effnet-tflite ")
        assert err.count("\n") == 1
        assert message in err
        assert "Comparing" not in out
        assert sorted(os.listdir(files)) == before

    fails("is truncated or damaged", _report(files, "cut.tflite"))
    fails("is not a .tflite file", _report(files, "labels.txt"))
    fails("is not a file", _report(files, "none.tflite"))
    fails("required: --float", _report(files, float=None))
    fails("required: --data", _report(files, data=None))
    fails("is not a file", _report(files, float=files / "none.keras"))
    fails("folder without a saved_model.pb; give a .keras", _report(files, float=files / "empty"))
    fails(
        "is not a .keras, .h5 or .tflite file by its name",
        _report(files, float=files / "labels.txt"),
    )
    fails("has 5 classes and", _report(files, float=files / "five.tflite"))
    fails("has 2 names for a model with 10", _report(files, labels=files / "short.txt"))
    fails("does not exist", _report(files, data=files / "nowhere"))
    fails("has no images", _report(files, data=files / "empty"))
    fails("does not end in .html", _report(files, out=files / "r.htm"))
    fails("would be overwritten", _report(files, out=files / "my.tflite.html"))
    fails("is not a folder", _report(files, out=files / "none" / "r.html"))
    fails("would be overwritten", _report(files, labels=files / "l.html", out=files / "l.html"))
    fails("it is not overwritten", _report(files, out=files / "mine.html"))
    fails("it is not overwritten", _report(files, out=files / "settings.html"))
    fails("Unknown flag '--lables'. Did you mean '--labels'", _report(files, lables="x"))
    fails("at least 1 image, got 0", _report(files, limit=0))
    fails("invalid int value", _report(files, limit="few"))
    fails("has 10 classes and", _compare(files, "my.tflite", "five.tflite"))
    fails("is truncated or damaged", _compare(files, "my.tflite", "cut.tflite"))


def test_images_are_checked_before_a_keras_file_is_loaded(files, capfd):
    (files / "slow.keras").write_bytes(b"never read")
    (files / "empty").mkdir()
    assert _report(files, float=files / "slow.keras", data=files / "empty") == 2
    assert "has no images" in capfd.readouterr().err


def test_a_damaged_json_of_the_conversion_is_ignored(files, capfd):
    (files / "my.tflite.json").write_text("{")
    assert _report(files, limit=2) == 0
    assert "is not the JSON of a conversion: ignored" in capfd.readouterr().out


@pytest.mark.parametrize("main", [main_report, main_compare])
def test_help_names_the_written_files(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "Writes OUT" in capsys.readouterr().out
