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


def test_an_unknown_preset_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown preset 'int8strict'. Did you mean 'int8_strict"):
        find_preset("int8strict")


def test_the_readmes_seven_presets_are_there():
    assert list(PRESETS) == [
        "float32", "float16", "weight_only", "int8", "int8_mixed", "int8_strict", "int16x8",
    ]  # fmt: skip
    assert tflite.PRESETS is PRESETS


def test_images_are_asked_for_where_activations_are_rounded():
    assert {p.name for p in PRESETS.values() if p.calibrated} == {
        "int8", "int8_mixed", "int8_strict", "int16x8",
    }  # fmt: skip


def test_images_have_a_use_where_weights_are_rounded():
    others = {p.name for p in PRESETS.values() if not p.takes_images}
    assert others == {"float32", "float16"}


def test_ends_are_what_mediapipe_takes():
    for preset in PRESETS.values():
        assert {preset.input, preset.output} <= {"uint8", "float32"}


def test_slow_ones_warn():
    assert [p.name for p in PRESETS.values() if p.warning] == ["int16x8"]


def test_the_rows_take_neither_tensorflow_nor_litert():
    """A command line's --help is made of them."""
    code = (
        "import sys, tflite.presets; "
        "print(sorted({'tensorflow', 'keras', 'ai_edge_litert'} & set(sys.modules)))"
    )
    root = pathlib.Path(tflite.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
