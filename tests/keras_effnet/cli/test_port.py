"""``effnet port``: a complete file and a report, or an error with status 2 and nothing written.

The networks named B0 have only their first three stages here: the command is tested, not B0.
"""

import dataclasses
import json
import re

import numpy as np
import pytest

from keras_effnet.cli import main
from keras_effnet.image_preprocessing import Preprocessing, preprocessing
from keras_effnet.network_plan import plan
from keras_effnet.porting import keras_h5
from keras_effnet.porting.parity_report import Difference, ParityReport
from keras_effnet.porting.pytorch import write
from keras_effnet.pretrained import pytorch_projects
from keras_effnet.pretrained.layer_names import weighted_layers
from keras_effnet.variants import VARIANTS
from tools import foreign


def _run(*arguments):
    return main(["port", *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def small_b0():
    """A small variant that stands for B0 in the tables of qubvel and timm."""
    b0 = VARIANTS["efficientnet-b0"]
    small = dataclasses.replace(b0, stages=b0.stages[:3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(keras_h5.QUBVEL_VARIANTS, "efficientnet-b0", small)
        for name in ("tf_efficientnet_b0", "efficientnet_b0"):
            other = pytorch_projects.TIMM_VARIANTS[name]
            patch.setitem(
                pytorch_projects.TIMM_VARIANTS,
                name,
                dataclasses.replace(other, stages=small.stages),
            )
        yield small


@pytest.fixture(scope="module")
def model(small_b0):
    from keras_effnet.constructors import create_model

    return create_model(small_b0, classes=3, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def qubvel_b0(small_b0, model, tmp_path_factory):
    """The path of a qubvel file of 3 classes, with random weights."""
    layers = weighted_layers(plan(small_b0), keras_h5.QUBVEL)
    path = tmp_path_factory.mktemp("qubvel") / "x.h5"
    foreign.save_h5(path, {p.source_name: model.get_layer(p.name).get_weights() for p in layers})
    return path


@pytest.mark.every_stack
def test_port_writes_the_file_and_prints_a_report(keras, model, qubvel_b0, tmp_path, capsys):
    out = tmp_path / "x.keras"
    options = ["--model=efficientnet-b0", f"--out={out}", "--image-size=32", "--classes=3"]
    assert _run(qubvel_b0, "--from=qubvel", "--normalization=half", *options) == 0
    output = capsys.readouterr().out
    count = len(model.weights)
    mapped = f"qubvel efficientnet-b0 -> efficientnet-b0: {count} of {count} weights mapped"
    assert mapped in output
    assert "normalization (pixels - [127.5, 127.5, 127.5]) / [127.5, 127.5, 127.5]" in output
    reason = "qubvel is not a package that can be run here"
    assert f"Outputs were not compared: {reason}" in output
    assert output.endswith(f"Warning: the outputs were not compared: {reason}\n")
    assert f"{out} written\nWarning: neither the file nor a config.json" in output
    assert "assumed crop 0.875: correct it with --crop\n" in output
    assert "correct it with --image_size" not in output
    assert [p.name for p in tmp_path.iterdir()] == ["x.keras"]
    ported = keras.saving.load_model(out)
    assert ported.output_shape == (None, 3)
    assert ported.input_shape == (None, 32, 32, 3)
    for a, b in zip(ported.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_port_errors_exit_2_and_write_nothing(qubvel_b0, tmp_path, capsys):
    out = tmp_path / "x.keras"

    def rejected(
        message, path=qubvel_b0, source="qubvel", model="efficientnet-b0", out=out, more=()
    ):
        assert _run(path, f"--from={source}", f"--model={model}", f"--out={out}", *more) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("effnet: ")
        assert message in captured.err
        assert captured.out == ""
        assert list(tmp_path.iterdir()) == []

    rejected("Did you mean 'efficientnet-b0'", model="efficientnet-b0x")
    rejected("missing: block1b_dwconv", model="efficientnet-b1")
    rejected("missing: stack_0", source="leondgarse")
    rejected("has 3 classes, but classes=1000 was given", more=["--classes=1000"])
    rejected("does not end in .keras", out=tmp_path / "x.h5")
    rejected("does not exist", out=tmp_path / "nowhere" / "x.keras")
    rejected("would be overwritten", path=out, out=out)
    rejected("nowhere.h5 is not", path=qubvel_b0.parent / "nowhere.h5")
    rejected("is not a TensorFlow checkpoint", path=qubvel_b0, source="tensorflow")


def test_port_overwrites_no_weights_of_others(tmp_path, capsys):
    for direction, name in (("--from=timm", "my.keras"), ("--to=timm", "my.safetensors")):
        out = tmp_path / name
        out.write_bytes(b"weights")
        assert _run("x", direction, "--model=tf_efficientnet_b0", f"--out={out}") == 2
        assert "exists: it is not overwritten" in capsys.readouterr().err
        assert out.read_bytes() == b"weights"


def test_nothing_is_written_if_outputs_differ(keras, qubvel_b0, tmp_path, capsys, monkeypatch):
    def port(*arguments, **options):
        apart = (Difference("stem", 1.0, 1e-6), Difference("block1a", 2.0, 0.01))
        return None, ParityReport("timm x", "x", "efficientnet-b0", 1, 1, (), apart, "")

    monkeypatch.setattr("keras_effnet.cli.port.port", port)
    out = tmp_path / "x.keras"
    assert _run(qubvel_b0, "--from=timm", "--model=tf_efficientnet_b0", f"--out={out}") == 2
    output = capsys.readouterr().err
    assert (
        "The outputs differ by 5.00e-03 at block1a, more than 0.001: nothing was written" in output
    )
    assert list(tmp_path.iterdir()) == []


def test_inconsistent_arguments_are_errors(capsys):
    for arguments in (
        ["x.h5", "--model=efficientnet-b0", "--out=x.keras"],
        ["x.h5", "--from=nobody", "--model=efficientnet-b0", "--out=x.keras"],
        ["x.h5", "--from=timm", "--to=timm", "--model=efficientnet-b0", "--out=x.keras"],
        ["x.keras", "--to=qubvel", "--model=efficientnet-b0", "--out=x.h5"],
    ):
        assert _run(*arguments) == 2
        output, error = capsys.readouterr()
        assert error.startswith("effnet: ")
        assert output == ""


@pytest.mark.every_stack
def test_port_exports_state_dicts(keras, model, tmp_path, capsys):
    from safetensors.numpy import load_file

    path, out = tmp_path / "x.keras", tmp_path / "x.safetensors"
    model.save(path)
    assert _run(path, "--to=timm", "--model=tf_efficientnet_b0", f"--out={out}") == 0
    kernel = load_file(out)["conv_stem.weight"]
    np.testing.assert_array_equal(
        kernel.transpose(2, 3, 1, 0), model.get_layer("stem_conv").get_weights()[0]
    )
    assert _run(path, "--to=timm", "--model=efficientnet_b0", f"--out={out}") == 2
    assert "would give other outputs there" in capsys.readouterr().err
    assert _run(path, "--to=timm", "--model=tf_efficientnet_b0", "--out=x.pth") == 2
    assert _run(out, "--to=timm", "--model=tf_efficientnet_b0", f"--out={out}") == 2
    (tmp_path / "half.keras").write_bytes(path.read_bytes()[:5000])
    assert _run(tmp_path / "half.keras", "--to=timm", "--model=x", f"--out={out}") == 2
    assert "half.keras cannot be read as a .keras file" in capsys.readouterr().err
    (tmp_path / "half.keras").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.keras", "x.safetensors"]


@pytest.fixture
def timm_file(small_b0, model, tmp_path):
    """A state dict with timm's names, in a separate folder, without a config.json."""
    path = tmp_path / "timm" / "x.safetensors"
    path.parent.mkdir()
    resolved = plan(pytorch_projects.TIMM_VARIANTS["tf_efficientnet_b0"])
    write(model, path, resolved, pytorch_projects.TIMM)
    return path


@pytest.mark.slow
def test_port_states_the_origin_of_every_setting(keras, timm_file, tmp_path, capsys):
    arguments = [timm_file, "--from=timm", "--model=tf_efficientnet_b0", "--no_compare"]

    def settings(name, *more):
        assert _run(*arguments, f"--out={tmp_path / name}", *more) == 0
        output, progress = capsys.readouterr()
        assert progress.startswith("effnet: building efficientnet-b0 for ")
        ported = keras.saving.load_model(tmp_path / name)
        constants = np.ravel(ported.get_layer("normalization").mean)[0]
        return output, preprocessing(ported), round(float(constants), 3)

    output, images, mean = settings("assumed.keras")
    assert (images, mean) == (Preprocessing(224, 0.875, "bicubic"), 123.675)
    for flag in ("image_size", "crop", "interpolation", "mean", "std"):
        assert f"correct it with --{flag}\n" in output
    assert "assumed image size 224" in output
    flags = ["--image-size=96", "--crop=0", "--interpolation=bilinear", "--mean=0.5"]
    output, images, mean = settings("given.keras", *flags, "--std=0.25,0.25,0.25")
    assert (images, mean) == (Preprocessing(96, None, "bilinear"), 127.5)
    assert "assumed" not in output
    config = {"pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.25] * 3}}
    timm_file.with_name("config.json").write_text(json.dumps(config))
    output, images, mean = settings("read.keras", "--crop=1", "--std", "64")
    assert (images, mean) == (Preprocessing(64, 1.0, "bicubic"), 63.75)
    assert re.search(r"image size +64 +read from config.json\n", output)
    assert re.search(r"crop +1 +given\n", output)
    assert "assumed interpolation bicubic: correct it with --interpolation\n" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--crop=2"], "2 is out of range"),
        (["--image_size=8"], "image_size 8 is too small"),
        (["--mean=1,2"], "neither one number nor three"),
        (["--std=0"], "is invalid: give positive numbers"),
        (["--interpolation=lanczos"], "invalid choice"),
        (["--mean=1", "--normalization=half"], "--normalization states mean and std"),
        (["--no_compare", "--require_compare"], "not allowed with"),
        (["--from=qubvel", "--require-compare"], "qubvel is not a package that can be run here"),
    ],
)
def test_invalid_settings_are_errors_before_the_file_is_read(tmp_path, capsys, flags, message):
    arguments = ["--from=timm", "--model=tf_efficientnet_b0", f"--out={tmp_path / 'x.keras'}"]
    assert _run("nowhere.safetensors", *arguments, *flags) == 2
    output, error = capsys.readouterr()
    assert message in error
    assert output == ""
    assert len(error.splitlines()) == 1


def test_a_required_comparison_is_an_error_without_the_package(
    timm_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("keras_effnet.porting.importlib.util.find_spec", lambda name: None)
    out = tmp_path / "x.keras"
    arguments = [timm_file, "--from=timm", "--model=tf_efficientnet_b0", f"--out={out}"]
    assert _run(*arguments, "--require-compare") == 2
    assert "the package timm is not installed" in capsys.readouterr().err
    assert not out.exists()
    assert _run(out, "--to=timm", "--model=tf_efficientnet_b0", "--out=x", "--crop=1") == 2
    assert "drop --crop" in capsys.readouterr().err
