"""PyPI's package tflite beside ours: one message, in Python and on the command line."""

import importlib

import pytest

import tflite
from keras_effnet.package_conflicts import check_package_conflicts
from tflite.cli import main


@pytest.fixture
def unrelated_tflite(tmp_path, monkeypatch):
    """An installed distribution named tflite, version 2.18.0."""
    info = tmp_path / "tflite-2.18.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tflite\nVersion: 2.18.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_without_the_unrelated_package_nothing_is_raised():
    check_package_conflicts()


def test_the_unrelated_package_is_named_at_the_first_use(unrelated_tflite, monkeypatch):
    monkeypatch.delitem(vars(tflite), "PRESETS", raising=False)
    with pytest.raises(ImportError, match=r"tflite 2\.18\.0.*pip uninstall -y tflite"):
        _ = tflite.PRESETS


def test_the_command_prints_one_line(unrelated_tflite, capsys):
    assert main(["--help"]) == 2
    assert capsys.readouterr().err.startswith("effnet-tflite: an unrelated package of PyPI")
