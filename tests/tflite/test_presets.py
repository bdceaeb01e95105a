import pathlib
import subprocess
import sys

import pytest

import tflite
from tflite.presets import PRESETS, find_preset


def test_presets_are_found_by_name():
    for name, row in PRESETS.items():
        assert find_preset(name) is row
        assert row.name == name


def test_unknown_preset_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"Unknown preset 'int8strict'. Did you mean 'int8_strict"):
        find_preset("int8strict")


def test_presets_are_consistent():
    for preset in PRESETS.values():
        assert {preset.input, preset.output} <= {"uint8", "float32"}  # what MediaPipe accepts
        assert preset.calibrated == (preset.activations != "float32")
        assert preset.takes_images or not preset.calibrated
        assert preset.purpose
    assert tflite.PRESETS is PRESETS


def test_only_int16_warns():
    assert [preset.name for preset in PRESETS.values() if preset.warning] == ["int16x8"]


def test_presets_need_neither_tensorflow_nor_litert():
    """The command line's --help shows them."""
    code = (
        "import sys, tflite.presets; "
        "print(sorted({'tensorflow', 'keras', 'ai_edge_litert'} & set(sys.modules)))"
    )
    root = pathlib.Path(tflite.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
