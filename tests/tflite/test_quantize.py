import dataclasses

import numpy as np
import pytest

import tflite
from tflite import graph, litert
from tflite.graph import Op


def _plan(*names):
    ops = [Op(name, f"t{i}", "FLOAT32") for i, name in enumerate(names)]
    return tflite.plan_int8(ops, calibration_images=100)


def _precisions(*names):
    return [op.precision for op in _plan(*names).ops]


def test_softmax_stays_float_and_the_plan_says_why():
    plan = _plan("CONV_2D", "SOFTMAX")
    assert [op.precision for op in plan.ops] == ["int8", "float32"]
    assert "SOFTMAX 1  (XNNPACK has no int8 softmax" in str(plan)
    assert "100 calibration images" in str(plan)
    assert "uint8, scale 1, zero point 0" in str(plan)


def test_pixels_are_normalised_in_float():
    assert _precisions("SUB", "MUL", "CONV_2D", "MUL") == ["float32", "float32", "int8", "int8"]


def test_a_last_sigmoid_stays_float_and_a_gate_does_not():
    assert _precisions("CONV_2D", "LOGISTIC", "MUL", "FULLY_CONNECTED", "LOGISTIC") == [
        "int8", "int8", "int8", "int8", "float32",
    ]  # fmt: skip


def test_ops_that_are_not_known_to_run_in_int8_stay_float():
    assert _precisions("CONV_2D", "HARD_SWISH", "EXP") == ["int8", "float32", "float32"]


def test_shape_arithmetic_is_not_planned():
    plan = tflite.plan_int8([Op("SHAPE", "s", "INT32")], calibration_images=1)
    assert plan.ops == ()


@pytest.mark.parametrize("activation", ["softmax", None, "sigmoid"])
def test_what_is_planned_is_what_comes_out(tiny, build, images, activation):
    content = tflite.float_tflite(build(tiny, classifier_activation=activation))
    plan = tflite.plan_int8(tflite.read_ops(content), calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)

    floats = {op.name for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    last = {"softmax": {"SOFTMAX"}, "sigmoid": {"LOGISTIC"}, None: set()}[activation]
    assert floats == {"SUB", "MUL", "DEQUANTIZE"} | last
    assert graph.quantization(made) == (("UINT8", 1.0, 0), ("FLOAT32", 0.0, 0))
    assert litert.is_fully_accelerated(made)
    assert graph.misaligned_buffers(made) == 0


def test_int8_answers_are_close_to_floats(float_content, int8_content, images):
    got = litert.scores(litert.interpreter(int8_content), images)
    want = litert.scores(litert.interpreter(float_content), images)
    assert np.abs(got - want).max() < 0.05
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def test_an_open_activation_converts_too(build, tiny, images):
    lite = dataclasses.replace(
        tiny, name="lite", family=dataclasses.replace(tiny.family, activation="relu6")
    )
    content = tflite.float_tflite(build(lite))
    plan = tflite.plan_int8(tflite.read_ops(content), calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)
    assert litert.is_fully_accelerated(made)


def test_the_order_of_the_images_does_not_change_a_byte(float_content, int8_content, images):
    plan = tflite.plan_int8(tflite.read_ops(float_content), calibration_images=16)
    ranges = tflite.calibrate(float_content, images[::-1])
    assert tflite.quantize(float_content, ranges, plan) == int8_content


def test_edited_ranges_are_followed(float_content, images):
    plan = tflite.plan_int8(tflite.read_ops(float_content), calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    name = next(op.output for op in plan.ops if op.name == "CONV_2D")
    ranges[name] = {"min": -6.0, "max": 9.3}
    made = litert.interpreter(tflite.quantize(float_content, ranges, plan))
    details = next(d for d in made.get_tensor_details() if d["name"] == name)
    assert details["quantization"][0] == pytest.approx(15.3 / 255, rel=1e-3)


def test_an_edited_plan_is_followed(float_content, images):
    plan = tflite.plan_int8(tflite.read_ops(float_content), calibration_images=16)
    row = next(op for op in plan.ops if op.name == "DEPTHWISE_CONV_2D")
    rows = tuple(
        dataclasses.replace(op, precision="float32", why="asked") if op is row else op
        for op in plan.ops
    )
    plan = dataclasses.replace(plan, ops=rows)
    made = tflite.quantize(float_content, tflite.calibrate(float_content, images), plan)
    assert {op.output: op.dtype for op in tflite.read_ops(made)}[row.output] == "FLOAT32"
    assert "DEPTHWISE_CONV_2D 1  (asked)" in str(plan)


def test_a_tensor_without_a_range_is_an_error(float_content):
    plan = tflite.plan_int8(tflite.read_ops(float_content), calibration_images=16)
    with pytest.raises(ValueError, match=r"tensors have no range"):
        tflite.quantize(float_content, {}, plan)


def test_a_product_that_does_not_follow_the_plan_is_refused(float_content, images, monkeypatch):
    plan = tflite.plan_int8(tflite.read_ops(float_content), calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    monkeypatch.setattr(litert, "static_int8", lambda content, *_: content)
    with pytest.raises(tflite.ConversionError, match=r"is FLOAT32, not INT8"):
        tflite.quantize(float_content, ranges, plan)
