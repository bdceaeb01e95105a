import pytest

import tflite
from keras_effnet.litert.ops import Op
from tflite.quantization.plan import make_plan


def _ops(*names):
    return [Op(name, f"t{i}", "FLOAT32") for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "float32"),
    [
        ("CONV_2D SOFTMAX", "SOFTMAX"),
        ("SUB MUL CONV_2D MUL", "SUB MUL"),  # input normalization
        ("CONV_2D LOGISTIC MUL FULLY_CONNECTED LOGISTIC", "FULLY_CONNECTED LOGISTIC"),
        ("CONV_2D HARD_SWISH EXP", "HARD_SWISH EXP"),
    ],
)
def test_int8_plan_keeps_in_float32(names, float32):
    plan = make_plan(_ops(*names.split()), "int8")
    floats = [(op.name, bool(op.reason)) for op in plan.ops if op.precision == "float32"]
    kept = float32.split()
    if names.startswith("SUB"):
        assert [op.precision for op in plan.ops] == ["float32", "float32", "int8", "int8"]
    assert floats == [(name, True) for name in kept]


@pytest.mark.parametrize(
    ("preset", "precision"),
    [("int8_strict", "int8"), ("int16x8", "int16"), ("float16", "float32")],
)
def test_other_presets_have_one_precision(preset, precision):
    plan = make_plan(_ops("SUB", "CONV_2D", "FULLY_CONNECTED", "SOFTMAX"), preset)
    assert {op.precision for op in plan.ops} == {precision}
    assert plan.outputs(precision) == {"t0", "t1", "t2", "t3"}


def test_plan_is_printed_with_reasons():
    plan = make_plan(
        _ops("CONV_2D", "SOFTMAX"), "int8", calibration_images=100, range_description="min-max"
    )
    text = str(plan)
    assert "SOFTMAX 1  (XNNPACK has no int8 softmax" in text
    assert "ranges   min-max; 100 calibration images" in text
    assert "uint8, scale 1, zero point 0" in text


def test_shape_arithmetic_is_not_planned():
    assert make_plan([Op("SHAPE", "s", "INT32")], "int8").ops == ()


def test_unknown_preset_is_an_error():
    with pytest.raises(ValueError, match=r"Unknown preset 'int88'"):
        make_plan(_ops("CONV_2D"), "int88")


def test_ops_become_float32_by_their_outputs():
    plan = make_plan(_ops("CONV_2D", "CONV_2D", "SOFTMAX"), "int8")
    changed = plan.with_floats(("t0",), "asked for")
    assert changed.outputs("int8") == {"t1"}
    assert changed.ops[0].reason == "asked for"
    assert "CONV_2D 1  (asked for)" in str(changed)
    assert plan.outputs("int8") == {"t0", "t1"}


def test_public_function_is_the_same():
    assert tflite.make_plan is make_plan
