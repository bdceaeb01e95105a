import re
import sys

import pytest
from PIL import Image

from tflite.cli import command

_SOURCE = """
import keras
from sibling import FACTOR

@keras.saving.register_keras_serializable("test_command")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return FACTOR * x

def plain(x):
    return x
"""


@pytest.mark.parametrize("name", ["my_scaled_layers", "types"])  # the second is a known module
def test_a_python_file_registers_and_returns_its_objects(tmp_path, monkeypatch, name):
    import keras

    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / f"{name}.py").write_text(_SOURCE)
    (tmp_path / "sibling.py").write_text("FACTOR = 2")
    objects = command.import_custom_objects(str(tmp_path / f"{name}.py"))
    assert set(objects) == {"Scaled", "plain"}
    assert keras.saving.get_registered_object("test_command>Scaled") is objects["Scaled"]


def test_a_module_in_the_working_directory_is_imported(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package_of_layers").mkdir()
    (tmp_path / "my_package_of_layers" / "inner.py").write_text("class A: pass")
    assert set(command.import_custom_objects("my_package_of_layers.inner")) == {"A"}
    assert command.import_custom_objects(None) == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "is not a file"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_is_one_line(tmp_path, monkeypatch, source, message):
    monkeypatch.setattr("sys.path", list(sys.path))
    path = tmp_path / "failing_layers.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(ValueError, match=r"^--module .* cannot be imported: ") as raised:
        command.import_custom_objects(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("mean", "is not module:function, e.g. my_metric.py:mean_error"),
        (":mean", "is not module:function"),
        ("my_metric.py:", "is not module:function"),
        ("no_such_module:mean", "'no_such_module' cannot be imported: ModuleNotFoundError"),
        ("none.py:mean", "'none.py' cannot be imported: FileNotFoundError"),
        ("my_metric.py:mean_eror", "Unknown function 'mean_eror'. Did you mean 'mean_error'?"),
        ("my_metric.py:NUMBER", "Unknown function 'NUMBER'"),
        ("syntax.py:mean", "'syntax.py' cannot be imported: SyntaxError"),
        ("exits.py:mean", "'exits.py' cannot be imported: SystemExit"),
        ("my metric.py:mean_error", None),
        ("my_metric.py:mean_error", None),
        ("json:dumps", None),
    ],
)
def test_metric_is_imported_or_named(tmp_path, monkeypatch, metric, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_metric.py", "my metric.py"):
        (tmp_path / name).write_text("NUMBER = 3\ndef mean_error(outputs, labels): return 0\n")
    (tmp_path / "syntax.py").write_text("def mean(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit\n")
    if message is None:
        assert command.import_metric(metric).name == metric.rpartition(":")[2]
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        command.import_metric(metric)


def test_a_flag_opens_training_or_validation_images(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    assert len(command.open_images("calibration", str(tmp_path))) == 3
    assert len(command.open_images("data", str(tmp_path), evaluation=True)) == 2
    assert command.open_images("data", "tfds:cifar10") == "tfds:cifar10"  # not downloaded yet
    with pytest.raises(ValueError, match="--data: data 'none' does not exist: give a folder"):
        command.open_images("data", "none")
