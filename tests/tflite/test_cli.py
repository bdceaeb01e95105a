import json
import os

import numpy as np
import pytest
from PIL import Image

from tflite import cli


@pytest.fixture
def files(tmp_path, model):
    """A model, ten class folders of two images each, and labels; as a user has them."""
    model.save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    for c in range(10):
        (tmp_path / "photos" / f"c{c}").mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"c{c}" / f"{i}.png")
    (tmp_path / "labels.txt").write_text("".join(f"c{c}\n" for c in range(10)))
    (tmp_path / "out").mkdir()
    return tmp_path


def _run(files, *extra, **flags):
    flags = {
        "model": files / "m.keras",
        "calibration": files / "photos",
        "out": files / "out" / "m.tflite",
        **flags,
    }
    return cli.main([f"--{k}={v}" for k, v in flags.items() if v is not None] + list(extra))


def test_a_folder_of_photos_makes_an_int8_file(files, capfd):
    (files / "photos" / "c3" / "bad.jpg").write_bytes(b"no image")
    assert _run(files, labels=files / "labels.txt") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "Quantizing to int8" in out
    assert "skipped, cannot be decoded" in out
    assert "top-1" in out
    assert "the calibration images" in out
    report = json.loads((files / "out" / "m.tflite.json").read_text())
    assert report["report"]["images"] == 20
    assert len(report["skipped_images"]) == 1
    assert (files / "out" / "m.tflite.labels.txt").read_text().startswith("c0\nc1\n")


def test_float32_takes_no_images(files):
    assert _run(files, mode="float32", calibration=None) == 0
    assert sorted(os.listdir(files / "out")) == ["m.tflite", "m.tflite.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mode": "int9"}, "Unknown mode 'int9'. Did you mean 'int8'"),
        ({"calibrate": "x"}, "Unknown flag 'calibrate'. Did you mean 'calibration'"),
        ({"model": "none.keras"}, "'none.keras' is not a file"),
        ({"model": None}, "required: --model"),
        ({"calibration": None}, "--mode=int8 needs --calibration"),
        ({"calibration": "none"}, "--calibration 'none' does not exist"),
        ({"verify": "none"}, "--verify 'none' does not exist"),
        ({"out": "none/m.tflite"}, "is not a folder"),
        ({"image_size": "big"}, "invalid int value: 'big'"),
        ({"image_size": 64}, "image_size 64 does not fit"),
        ({"calibration_images": 4}, "has 4 images and needs 16"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(files, capfd, flags, message):
    assert _run(files, **flags) == 2
    err = capfd.readouterr().err
    assert err.startswith("effnet-tflite: ")
    assert err.count("\n") == 1
    assert message in err
    assert not os.listdir(files / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\n", "2 class names for a model with 10 outputs"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"", "line 1 is empty"),
        (b"a\na\n", "has 'a' twice"),
        (b"\xff\xfe\x00", "not a UTF-8"),
    ],
)
def test_bad_labels_are_errors(files, capfd, text, message):
    (files / "labels.txt").write_bytes(text)
    assert _run(files, labels=files / "labels.txt") == 2
    assert message in capfd.readouterr().err


def test_help_says_what_is_written(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    assert "OUT.labels.txt" in capsys.readouterr().out
