import functools
import json
import os
import shutil
import signal
import types

import numpy as np
import pytest
from PIL import Image

import tflite
from keras_effnet.litert import metadata, runtime
from tflite.cli import compare, convert
from tflite.quantization.mixed_precision import Float32Region
from tflite.quantization.step_selection import QuantizationStep


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    """Conversions without the searches, which are tested elsewhere; the cache is empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
    monkeypatch.setattr(convert, "convert", functools.partial(tflite.convert, search_evaluations=0))


@pytest.fixture
def files(tmp_path, model):
    """A model, ten class folders of two images each, and a label file."""
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
    return convert.main([f"--{k}={v}" for k, v in flags.items() if v is not None] + list(extra))


def test_a_folder_of_photos_gives_an_int8_model_and_report(files, capfd):
    (files / "photos" / "c3" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    assert _run(files, labels=files / "labels.txt") == 0
    out, err = capfd.readouterr()
    assert err == ""
    for word in ("min-max ranges", "bias correction", "agreement", "preset   int8"):
        assert word in out
    assert "skipped, cannot be decoded" in out
    assert "top-1" in out
    assert "the calibration images" in out
    report = json.loads((files / "out" / "m.tflite.json").read_text())
    assert report["report"]["images"] == 20
    assert len(report["skipped_images"]) == 1
    assert (files / "out" / "m.tflite.labels.txt").read_text().startswith("c0\nc1\n")
    assert metadata.read((files / "out" / "m.tflite").read_bytes()).labels[:2] == ("c0", "c1")
    assert sorted(os.listdir(files / "out")) == [
        "m.tflite", "m.tflite.card.json", "m.tflite.card.md", "m.tflite.html", "m.tflite.json",
        "m.tflite.labels.txt",
    ]  # fmt: skip
    assert report["calibration"]["files"][0] == "c0/0.png"
    assert _claimed(out) == sorted(os.listdir(files / "out"))


def _claimed(out):
    """The names of the files that the command says it wrote."""
    (line,) = [line for line in out.splitlines() if line.startswith("Wrote ")]
    return sorted(os.path.basename(path) for path in line.removeprefix("Wrote ").split(", "))


def test_labels_of_an_earlier_conversion_are_named(files, capfd):
    earlier = files / "out" / "m.tflite.labels.txt"
    flags = {"preset": "float32", "calibration": None}
    assert _run(files, **flags, labels=files / "labels.txt") == 0
    assert "was there before" not in capfd.readouterr().out
    assert _run(files, **flags) == 0
    assert f"{earlier} was there before" in capfd.readouterr().out
    assert _run(files, **flags, labels=earlier) == 0
    assert "was there before" not in capfd.readouterr().out


def test_float32_needs_no_images_and_claims_no_html(files, capfd):
    assert _run(files, preset="float32", calibration=None) == 0
    written = sorted(os.listdir(files / "out"))
    assert written == ["m.tflite", "m.tflite.card.json", "m.tflite.card.md", "m.tflite.json"]
    assert _claimed(capfd.readouterr().out) == written


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"preset": "int9"}, "Unknown preset 'int9'. Did you mean 'int8'"),
        ({"calibrate": "x"}, "Unknown flag '--calibrate'. Did you mean '--calibration'"),
        ({"model": "none.keras"}, "'none.keras' is not a file"),
        ({"model": None}, "required: --model"),
        ({"calibration": None}, "preset int8 needs --calibration"),
        ({"calibration": "none"}, "--calibration: data 'none' does not exist"),
        ({"evaluation": "none"}, "--evaluation: data 'none' does not exist"),
        ({"out": "none/m.tflite"}, "is not a folder"),
        ({"image_size": "big"}, "invalid int value: 'big'"),
        ({"image_size": 64}, "image_size 64 does not fit"),
        (
            {"calibration_images": 4},
            "calibration_images 4 is fewer than the 16 that preset int8 needs",
        ),
        ({"max_drop": -1}, "max_drop must be in [0, 100) percentage points, got -1.0"),
        ({"min_agreement": 97}, "min_agreement must be in (0, 1], e.g. 0.97, got 97.0"),
        ({"preset": "int8", "max_drop": 1}, "preset int8 takes no budget"),
        ({"model": "none.tflite"}, "'none.tflite' is not a file"),
    ],
)
def test_bad_flags_print_one_line_and_write_nothing(files, capfd, flags, message):
    assert _run(files, **flags) == 2
    err = capfd.readouterr().err
    assert err.startswith("effnet-tflite: ")
    assert err.count("\n") == 1
    assert message in err
    assert not os.listdir(files / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"preset": "int8", "max_drop": 1}, "preset int8 takes no budget"),
        ({"max_drop": -1}, "max_drop must be in"),
        ({"preset": "int16x8", "finetune": True}, "preset int16x8 cannot be fine-tuned"),
        ({"preset": "int16x8", "calibration": None}, "int16x8 needs --calibration"),
        ({"preset": "float32", "calibration": None, "calibration_images": 9}, "none are given"),
        ({"calibration_images": 0}, "calibration_images must be at least 1, got 0"),
        ({"calibration_images": 15}, "fewer than the 16 that preset int8 needs"),
        ({"calibration": "few"}, "calibration has 15 images and needs 16"),
        ({"max_corrupt": -1}, "max_corrupt must be at least 0, got -1"),
        ({"image_size": 0}, "image_size must be a number of pixels, got 0"),
    ],
)
def test_contradictions_are_found_before_the_model_is_loaded(
    files, capfd, monkeypatch, flags, message
):
    monkeypatch.setattr(convert, "_load_model", lambda *_: pytest.fail("loaded"))
    extra = ["--finetune"] if flags.pop("finetune", False) else []
    if flags.get("calibration") == "few":
        flags = {"calibration": files / "few"}
        os.mkdir(files / "few")
        for i in range(15):
            shutil.copy(files / "photos" / "c0" / "0.png", files / "few" / f"{i}.png")
    assert _run(files, *extra, **flags) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("preset", ["float32", "float16"])
def test_presets_without_calibration_are_compared_on_the_images(
    files, float_content, capfd, preset
):
    assert _run(files, **_flat(files, float_content), preset=preset) == 0
    assert f"Preset {preset} is not calibrated" in capfd.readouterr().out
    record = json.loads((files / "out" / "m.tflite.json").read_text())
    assert record["report"]["images"] == 20
    assert record["calibration"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\n", "2 class names for a model with 10 outputs"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"", "line 1 is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_labels_are_errors(files, capfd, text, message):
    (files / "labels.txt").write_bytes(text)
    assert _run(files, labels=files / "labels.txt") == 2
    assert message in capfd.readouterr().err


def test_the_name_of_a_network_comes_with_the_way_to_its_file(files, capfd):
    assert _run(files, model="efficientnet-lite0") == 2
    assert ".save('efficientnet-lite0.keras') writes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.weights.h5", "of the whole model: this file has weights only"),
        ("m.pth", "cannot be converted: give a .keras file, which effnet port writes from it"),
        ("saved_model.pb", "cannot be converted: give the folder of the SavedModel"),
        ("run", r"not a file but a folder without a saved_model.pb; give"),
    ],
)
def test_a_path_of_no_model_comes_with_the_way_to_one(files, capfd, name, message):
    (files / "run").mkdir()
    (files / "run" / "model.keras").write_bytes(b"x")
    if name != "run":
        (files / name).write_bytes(b"x")
    assert _run(files, model=files / name) == 2
    error = capfd.readouterr().err
    assert message in error
    assert name != "run" or error.endswith("/run/model.keras\n")


@pytest.mark.parametrize("flag", ["model", "calibration", "labels", "evaluation"])
def test_no_input_is_overwritten(files, float_content, capfd, flag):
    np.savez(files / "a.npz", images=np.zeros((16, 32, 32, 3), np.uint8))
    (files / "float.tflite").write_bytes(float_content)
    inputs = {"model": files / "float.tflite", "labels": files / "labels.txt"}
    inputs |= {"calibration": files / "a.npz", "evaluation": files / "a.npz"}
    before = inputs[flag].read_bytes()
    os.symlink(inputs[flag], files / "link")
    for out in (inputs[flag], files / "link", files / "out" / ".." / inputs[flag].name):
        assert _run(files, **inputs, out=out) == 2
        assert "would be overwritten" in capfd.readouterr().err
    assert inputs[flag].read_bytes() == before


def test_no_other_file_is_overwritten(files, float_content, capfd):
    flags = {"model": files / "m.keras", "labels": files / "labels.txt"}
    reports = ("m.tflite.json", "m.tflite.html", "m.tflite.card.md", "m.tflite.card.json")
    for name in ("other.keras", *reports, "m.tflite.labels.txt"):
        path = files / "out" / name
        path.write_bytes(b"\xffmine")
        out = path if name == "other.keras" else files / "out" / "m.tflite"
        assert _run(files, **flags, out=out) == 2
        assert "it is not overwritten" in capfd.readouterr().err
        assert path.read_bytes() == b"\xffmine"
        path.unlink()


def test_a_conversion_is_repeated_with_the_labels_file_that_it_wrote(files, float_content):
    flags = _flat(files, float_content) | {"calibration": None, "preset": "float32"}
    assert _run(files, **flags, labels=files / "labels.txt") == 0
    assert _run(files, **flags, labels=files / "out" / "m.tflite.labels.txt") == 0
    assert (files / "out" / "m.tflite.labels.txt").read_text().startswith("c0\n")


def test_a_label_file_of_windows_is_read_without_its_byte_order_mark(files, float_content):
    names = "".join(f"k{c}\r\n" for c in range(10))
    (files / "notepad.txt").write_bytes(b"\xef\xbb\xbf" + names.encode())
    flags = _flat(files, float_content) | {"calibration": None, "preset": "float32"}
    assert _run(files, **flags, labels=files / "notepad.txt") == 0
    model = (files / "out" / "m.tflite").read_bytes()
    assert metadata.read(model).labels[:2] == ("k0", "k1")
    assert (files / "out" / "m.tflite.labels.txt").read_bytes().startswith(b"k0\nk1\n")


def test_help_names_the_written_files(capsys):
    with pytest.raises(SystemExit) as stop:
        convert.main(["--help"])
    assert stop.value.code == 0
    assert "OUT.labels.txt" in capsys.readouterr().out


def _flat(files, float_content):
    """Photos without class folders, for a .tflite."""
    (files / "float.tflite").write_bytes(float_content)
    (files / "flat").mkdir()
    for c in range(10):
        for i in range(2):
            os.rename(files / "photos" / f"c{c}" / f"{i}.png", files / "flat" / f"{c}{i}.png")
    return {"model": files / "float.tflite", "calibration": files / "flat"}


def test_a_truncated_tflite_prints_one_line(files, float_content, capfd):
    (files / "half.tflite").write_bytes(float_content[: len(float_content) // 2])
    assert _run(files, model=files / "half.tflite") == 2
    err = capfd.readouterr().err
    assert "truncated or damaged" in err
    assert err.count("\n") == 1
    assert not os.listdir(files / "out")


def test_a_drop_without_labels_is_an_error(files, float_content, capfd):
    assert _run(files, **_flat(files, float_content), max_drop=1) == 2
    assert "max_drop needs labelled calibration images" in capfd.readouterr().err
    assert not os.listdir(files / "out")


def test_equal_images_are_an_error(files, float_content, capfd):
    flags = _flat(files, float_content)
    first = (files / "flat" / "00.png").read_bytes()
    for path in (files / "flat").iterdir():
        path.write_bytes(first)
    assert _run(files, **flags) == 2
    assert "20 calibration images are identical" in capfd.readouterr().err
    assert not os.listdir(files / "out")


def test_a_failed_conversion_returns_1_and_writes_no_file(files, float_content, capfd, monkeypatch):
    def fail(*_, **__):
        raise tflite.BudgetError("no model meets the budget")

    monkeypatch.setattr(convert, "convert", fail)
    assert _run(files, **_flat(files, float_content), min_agreement=1) == 1
    assert capfd.readouterr().err == "effnet-tflite: no model meets the budget\n"
    assert not os.listdir(files / "out")


def test_an_interrupted_conversion_prints_one_line(files, float_content, capfd, monkeypatch):
    def interrupted(_, *, log, **__):
        with runtime.native_log_hidden():
            os.write(2, b"log of a library\n")
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(convert, "convert", interrupted)
    assert _run(files, **_flat(files, float_content)) == 75
    err = capfd.readouterr().err
    assert err == "effnet-tflite: interrupted; files are complete or not written\n"
    assert not os.listdir(files / "out")


def test_a_budget_selects_int8_mixed(files, float_content, capfd):
    assert _run(files, **_flat(files, float_content), min_agreement=0.1) == 0
    assert json.loads((files / "out" / "m.tflite.json").read_text())["preset"] == "int8_mixed"
    assert "preset   int8_mixed" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["report", "compare"])
def test_subcommands_get_the_remaining_arguments(name, monkeypatch):
    monkeypatch.setattr(compare, f"main_{name}", lambda argv: [name, *argv])
    assert convert.main([name, "a.tflite", "--data=x"]) == [name, "a.tflite", "--data=x"]


def test_fine_tuning_can_be_turned_on_and_off(files, monkeypatch):
    given = {}

    def fake(model, **options):
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(convert, "convert", fake)
    for extra, want in ((["--no-finetune"], False), (["--finetune"], True), ([], None)):
        assert _run(files, *extra) == 2
        assert given["finetune"] is want


def test_the_table_of_steps_has_a_row_for_each_step_and_region():
    steps = [
        QuantizationStep("min-max ranges", "of all images", 0.25, 0.9),
        QuantizationStep("equalization", "of channels", 0.5, 0.8, False, -0.1, 0.02),
        QuantizationStep("rounding", "of weights", float("inf"), 0.0, False, -1.0, 0.0),
    ]
    regions = [Float32Region("stem", ("a", "b"), 0.1, 0.2, "sensitive")]
    conversion = types.SimpleNamespace(quantization_steps=steps, float32_regions=regions)
    header, *rows = convert.format_steps(conversion).splitlines()
    assert header.split() == ["step", "KL", "agreement", "models"]
    assert "0.25000" in rows[0]
    assert rows[0].endswith("of all images")
    assert rows[1].endswith("not kept: gain -10.0% +- 2.0%")
    assert rows[2].endswith("not kept: the model does not run")
    assert "inf" not in rows[2]
    assert rows[3] == "float32  stem: sensitive"


def test_the_table_of_steps_of_other_outputs_names_their_measures():
    measures = ("relative error", "correlation")
    steps = [QuantizationStep("min-max ranges", "", 0.25, 0.9, measures=measures)]
    conversion = types.SimpleNamespace(quantization_steps=steps, float32_regions=[])
    header = convert.format_steps(conversion).splitlines()[0]
    assert header.split() == ["step", "error", "correlation", "models"]


def test_a_conversion_without_steps_has_no_table():
    conversion = types.SimpleNamespace(quantization_steps=(), float32_regions=())
    assert convert.format_steps(conversion) == ""
