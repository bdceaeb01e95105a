"""Commands print nothing on stderr but their own lines: no log of TensorFlow, CUDA or LiteRT."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAIN = "import sys\nfrom {package}.cli import main\nsys.exit(main())"
SHORT_SEARCHES = """\
import functools
from tflite.cli import convert
convert.convert = functools.partial(convert.convert, search_evaluations=2)
"""
SMALL_VARIANT = """\
import dataclasses
from keras_effnet.variants import NETWORKS
b0 = NETWORKS["efficientnetv2-b0"]
NETWORKS["small"] = dataclasses.replace(b0, name="small", width=0.1, depth=0.1, head_filters=32)
"""


def run(code, *arguments, cwd=ROOT):
    """Runs Python code with command-line arguments, without this test suite's log settings."""
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE_DEVICES")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with two classes of eight images."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(8):
            image = random.integers(0, 256, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def model(tiny, tmp_path):
    """A .keras file of a tiny network with two classes."""
    from keras_effnet import create_model

    path = tmp_path / "tiny.keras"
    create_model(tiny, weights=None, input_shape=(32, 32, 3), classes=2).save(path)
    return path


@pytest.mark.slow
@pytest.mark.every_stack
def test_a_prediction_prints_nothing_on_stderr(model, photos):
    image = photos / "a" / "0.png"
    result = run(MAIN.format(package="keras_effnet"), "predict", image, f"--model={model}")
    assert "%" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_a_conversion_prints_nothing_on_stderr(model, photos, tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    out = tmp_path / "tiny.tflite"
    result = run(
        SHORT_SEARCHES + MAIN.format(package="tflite"),
        *(f"--model={model}", f"--calibration={photos}", f"--out={out}"),
    )
    assert out.is_file()
    assert "Wrote" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
@pytest.mark.every_stack
def test_a_training_prints_only_its_progress_on_stderr(photos, tmp_path):
    result = run(
        SMALL_VARIANT + MAIN.format(package="tpu_train"),
        *("--recipe=photos", "--model=small", f"--data={photos}", f"--workdir={tmp_path}/run"),
        *("--phases=1", "--epochs=1", "--batch_size=4", "--holdout=0.25", "--freeze=batch_norm"),
        *(f"--image_size_{which}=32" for which in ("first", "last", "eval")),
    )
    assert "evaluation accuracy" in result.stdout
    progress = re.compile(r"phase 1/1, |small, \d+ training and |oneDNN is on$|few training images")
    assert [line for line in result.stderr.splitlines() if not progress.match(line)] == []


def test_the_converters_hidden_log_has_pythons_stderr_too():
    pytest.importorskip("ai_edge_quantizer")
    code = (
        "import os, sys\n"
        "from keras_effnet.native_logs import filter_native_logs\n"
        "from keras_effnet.litert.runtime import native_log_hidden\n"
        "filter_native_logs()\n"
        "with native_log_hidden():\n"
        "    os.write(2, b'native\\n')\n"
        "    print('python', file=sys.stderr)\n"
        "print('after', file=sys.stderr)\n"
    )
    assert run(code).stderr == "after\n"


def test_models_and_plan_do_not_import_tensorflow():
    code = (
        "import sys\n"
        "from keras_effnet.cli import main\n"
        "assert main(['models']) == main(['plan', 'efficientnet-b0']) == 0\n"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
    )
    assert "efficientnetv2-s" in run(code).stdout


@pytest.mark.parametrize("package", ["keras_effnet", "tpu_train", "tflite"])
def test_help_and_bad_flags_do_not_import_tensorflow(package):
    if package == "tflite":
        pytest.importorskip("ai_edge_quantizer")
    code = (
        "import sys\n"
        f"from {package}.cli import main\n"
        "try:\n    status = main()\n"
        "except SystemExit as end:\n    status = end.code or 0\n"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
        "assert status == (0 if sys.argv[1] == '--help' else 2), status\n"
    )
    assert run(code, "--help").stderr == ""
    assert run(code, "--no_such_flag=1").stderr.count("\n") == 1
