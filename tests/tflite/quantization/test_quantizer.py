import dataclasses

import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner, runtime
from tflite import ai_edge_quantizer
from tflite.flatbuffer.graph import Graph


@pytest.mark.parametrize("activation", ["softmax", None, "sigmoid"])
def test_file_follows_the_plan(tiny, build, images, activation):
    content = tflite.export_float32(build(tiny, classifier_activation=activation))
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)

    floats = {op.name for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    last = {"softmax": {"SOFTMAX"}, "sigmoid": {"LOGISTIC"}, None: set()}[activation]
    assert floats == {"SUB", "MUL", "DEQUANTIZE", "FULLY_CONNECTED"} | last
    assert ops.quantization(made) == (("UINT8", 1.0, 0), ("FLOAT32", 0.0, 0))
    assert runtime.is_fully_accelerated(made)
    assert ops.misaligned_buffers(made) == 0


def test_int8_scores_are_close_to_float(float_content, int8_content, images):
    got = runner.scores(int8_content, images)
    want = runner.scores(float_content, images)
    assert np.abs(got - want).max() < 0.05
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def test_relu6_network_converts(trained_lite, images):
    content = trained_lite
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)
    assert runtime.is_fully_accelerated(made)


def test_image_order_does_not_change_a_byte(float_content, int8_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images[::-1])
    assert tflite.quantize(float_content, ranges, plan) == int8_content


def test_edited_ranges_are_followed(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    name = next(op.output for op in plan.ops if op.name == "CONV_2D")
    ranges[name] = {"min": -6.0, "max": 9.3}
    made = runtime.interpreter(tflite.quantize(float_content, ranges, plan))
    details = next(d for d in made.get_tensor_details() if d["name"] == name)
    assert details["quantization"][0] == pytest.approx(15.3 / 255, rel=1e-3)


def test_edited_plan_is_followed(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    row = next(op for op in plan.ops if op.name == "DEPTHWISE_CONV_2D")
    rows = tuple(
        dataclasses.replace(op, precision="float32", reason="asked") if op is row else op
        for op in plan.ops
    )
    plan = dataclasses.replace(plan, ops=rows)
    made = tflite.quantize(float_content, tflite.calibrate(float_content, images), plan)
    assert {op.output: op.dtype for op in tflite.read_ops(made)}[row.output] == "FLOAT32"
    assert "DEPTHWISE_CONV_2D 1  (asked)" in str(plan)


def test_tensor_without_a_range_is_an_error(float_content):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    with pytest.raises(ValueError, match=r"tensors have no range"):
        tflite.quantize(float_content, {}, plan)


def test_file_that_does_not_follow_the_plan_is_an_error(float_content, images, monkeypatch):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    monkeypatch.setattr(ai_edge_quantizer, "static", lambda content, *_, **__: content)
    with pytest.raises(tflite.ConversionError, match=r"is FLOAT32, not INT8"):
        tflite.quantize(float_content, ranges, plan)


def _quantized(content, preset, images, **options):
    plan = tflite.make_plan(tflite.read_ops(content), preset, calibration_images=16)
    calibrated = tflite.PRESETS[preset].calibrated
    found = tflite.calibrate(content, images) if calibrated else None
    return tflite.quantize(content, found, plan), plan


@pytest.mark.parametrize("preset", tflite.PRESETS)
def test_every_preset_has_its_types_and_scores_like_float(preset, float_content, images):
    made, plan = _quantized(float_content, preset, images)
    row = tflite.PRESETS[preset]
    source, sink = ops.quantization(made)
    assert (source[0].lower(), sink[0].lower()) == (row.input, row.output)
    if row.input == "uint8":
        assert source[1:] == (1.0, 0)
    got = runner.scores(made, images)
    want = runner.scores(float_content, images)
    assert np.abs(got - want).max() < (1e-3 if preset in ("float16", "int16x8") else 0.05)
    assert row.purpose in str(plan)
    assert f"output   {row.output}" in str(plan)


def test_strict_int8_computes_nothing_in_float(trained_v1, photos):
    made, plan = _quantized(trained_v1, "int8_strict", photos[:16])
    assert {op.dtype for op in tflite.read_ops(made)} == {"INT8", "UINT8"}
    assert "SOFTMAX" in {op.name for op in plan.ops if op.precision == "int8"}
    assert "float32" not in str(plan)


def test_strict_int8_of_an_unsupported_op_is_an_error(trained_v1, photos):
    graph = Graph(trained_v1)
    last = graph.operations[-1]
    out = graph.add_tensor("exp", graph.shape(last.inputs[0]))
    graph.insert(last, "EXP", (last.inputs[0],), out)
    graph.rewire(last, last.inputs[0], out)
    with pytest.raises(
        ValueError, match=r"allows no float32 op, but 1 op\(s\) have no int8 kernel, e.g. EXP"
    ):
        _quantized(graph.content(), "int8_strict", photos[:16])


def test_int16_has_float_ends_and_zero_points_of_0(float_content, images):
    made, _ = _quantized(float_content, "int16x8", images)
    floats = {op.name for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    assert floats <= {"DEQUANTIZE"}
    details = runtime.interpreter(made).get_tensor_details()
    scales = [d["quantization"] for d in details if d["dtype"] is np.int16]
    assert len(scales) > 30
    assert {zero for _, zero in scales} == {0}


def test_float16_and_weight_only_have_the_promised_sizes():
    """The network is large enough for its weights to dominate."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(64, 3, 2, activation="relu")(image)
    x = keras.layers.Conv2D(256, 3, 2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    content = tflite.export_float32(keras.Model(image, keras.layers.Dense(10)(x)))
    for preset, share in (("float16", 0.5), ("weight_only", 0.25)):
        made, _ = _quantized(content, preset, None)
        assert share < len(made) / len(content) < share + 0.06
        floats = [op for op in tflite.read_ops(made) if op.name in ("CONV_2D", "FULLY_CONNECTED")]
        assert {op.dtype for op in floats} == {"FLOAT32"}


def test_float32_region_has_int8_weights(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8_mixed", calibration_images=16)
    row = next(op for op in plan.ops if op.name == "CONV_2D")
    plan = plan.with_floats((row.output,), "float32 region: stem")
    made = tflite.quantize(float_content, tflite.calibrate(float_content, images), plan)
    assert {op.output: op.dtype for op in tflite.read_ops(made)}[row.output] == "FLOAT32"
    assert runtime.is_fully_accelerated(made)
    assert "CONV_2D 1  (float32 region: stem)" in str(plan)
    kernel = Graph(float_content).shape(Graph(float_content).operations[2].inputs[1])
    tensors = runtime.interpreter(made).get_tensor_details()
    stems = [d for d in tensors if tuple(d["shape"]) == kernel]
    assert np.int8 in {d["dtype"] for d in stems}
