import dataclasses

import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer import ops
from tflite.flatbuffer.graph import Graph
from tflite.flatbuffer.ops import Op


def _plan(*names):
    ops = [Op(name, f"t{i}", "FLOAT32") for i, name in enumerate(names)]
    return tflite.make_plan(ops, "int8", calibration_images=100)


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


def test_the_layer_of_the_scores_and_a_last_sigmoid_stay_float_and_a_gate_does_not():
    assert _precisions("CONV_2D", "LOGISTIC", "MUL", "FULLY_CONNECTED", "LOGISTIC") == [
        "int8", "int8", "int8", "float32", "float32",
    ]  # fmt: skip


def test_ops_that_are_not_known_to_run_in_int8_stay_float():
    assert _precisions("CONV_2D", "HARD_SWISH", "EXP") == ["int8", "float32", "float32"]


def test_shape_arithmetic_is_not_planned():
    plan = tflite.make_plan([Op("SHAPE", "s", "INT32")], "int8", calibration_images=1)
    assert plan.ops == ()


@pytest.mark.parametrize("activation", ["softmax", None, "sigmoid"])
def test_what_is_planned_is_what_comes_out(tiny, build, images, activation):
    content = tflite.export_float32(build(tiny, classifier_activation=activation))
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)

    floats = {op.name for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    last = {"softmax": {"SOFTMAX"}, "sigmoid": {"LOGISTIC"}, None: set()}[activation]
    assert floats == {"SUB", "MUL", "DEQUANTIZE", "FULLY_CONNECTED"} | last
    assert ops.quantization(made) == (("UINT8", 1.0, 0), ("FLOAT32", 0.0, 0))
    assert litert.is_fully_accelerated(made)
    assert ops.misaligned_buffers(made) == 0


def test_int8_answers_are_close_to_floats(float_content, int8_content, images):
    got = litert.scores(litert.interpreter(int8_content), images)
    want = litert.scores(litert.interpreter(float_content), images)
    assert np.abs(got - want).max() < 0.05
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def test_an_open_activation_converts_too(trained_lite, images):
    content = trained_lite
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    made = tflite.quantize(content, tflite.calibrate(content, images), plan)
    assert litert.is_fully_accelerated(made)


def test_the_order_of_the_images_does_not_change_a_byte(float_content, int8_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images[::-1])
    assert tflite.quantize(float_content, ranges, plan) == int8_content


def test_edited_ranges_are_followed(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    name = next(op.output for op in plan.ops if op.name == "CONV_2D")
    ranges[name] = {"min": -6.0, "max": 9.3}
    made = litert.interpreter(tflite.quantize(float_content, ranges, plan))
    details = next(d for d in made.get_tensor_details() if d["name"] == name)
    assert details["quantization"][0] == pytest.approx(15.3 / 255, rel=1e-3)


def test_an_edited_plan_is_followed(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
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
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    with pytest.raises(ValueError, match=r"tensors have no range"):
        tflite.quantize(float_content, {}, plan)


def test_a_product_that_does_not_follow_the_plan_is_refused(float_content, images, monkeypatch):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8", calibration_images=16)
    ranges = tflite.calibrate(float_content, images)
    monkeypatch.setattr(litert, "static", lambda content, *_, **__: content)
    with pytest.raises(tflite.ConversionError, match=r"is FLOAT32, not INT8"):
        tflite.quantize(float_content, ranges, plan)


def _made(content, preset, images, **options):
    plan = tflite.make_plan(tflite.read_ops(content), preset, calibration_images=16)
    calibrated = tflite.PRESETS[preset].calibrated
    found = tflite.calibrate(content, images) if calibrated else None
    return tflite.quantize(content, found, plan), plan


@pytest.mark.parametrize("preset", tflite.PRESETS)
def test_every_preset_has_its_ends_and_answers_much_as_float(preset, float_content, images):
    made, plan = _made(float_content, preset, images)
    row = tflite.PRESETS[preset]
    source, sink = ops.quantization(made)
    assert (source[0].lower(), sink[0].lower()) == (row.input, row.output)
    if row.input == "uint8":
        assert source[1:] == (1.0, 0)
    got = litert.scores(litert.interpreter(made), images)
    want = litert.scores(litert.interpreter(float_content), images)
    assert np.abs(got - want).max() < (1e-3 if preset in ("float16", "int16x8") else 0.05)
    assert row.purpose in str(plan)
    assert f"output   {row.output}" in str(plan)


def test_strict_int8_computes_nothing_in_float(trained, photos):
    made, plan = _made(trained, "int8_strict", photos[:16])
    assert {op.dtype for op in tflite.read_ops(made)} == {"INT8", "UINT8"}
    assert "SOFTMAX" in {op.name for op in plan.ops if op.precision == "int8"}
    assert "float32" not in str(plan)


def test_strict_int8_of_an_operation_without_an_int8_version_is_an_error(trained_v1, photos):
    network = Graph(trained_v1)
    last = network.operations[-1]
    out = network.add_tensor("exp", network.shape(last.inputs[0]))
    network.insert(last, "EXP", (last.inputs[0],), out)
    network.rewire(last, last.inputs[0], out)
    with pytest.raises(ValueError, match=r"takes no float, and EXP has no int8 version here \(1 "):
        _made(network.content(), "int8_strict", photos[:16])


def test_int16_activations_keep_float_ends_and_a_zero_point_of_0(float_content, images):
    made, _ = _made(float_content, "int16x8", images)
    floats = {op.name for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    assert floats <= {"DEQUANTIZE"}
    details = litert.interpreter(made).get_tensor_details()
    codes = [d["quantization"] for d in details if d["dtype"] is np.int16]
    assert len(codes) > 30
    assert {zero for _, zero in codes} == {0}


def test_float16_and_weight_only_are_the_sizes_that_they_say():
    """Of a network that is large enough for its weights to count."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(64, 3, 2, activation="relu")(image)
    x = keras.layers.Conv2D(256, 3, 2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    content = tflite.export_float32(keras.Model(image, keras.layers.Dense(10)(x)))
    for preset, share in (("float16", 0.5), ("weight_only", 0.25)):
        made, _ = _made(content, preset, None)
        assert share < len(made) / len(content) < share + 0.06
        floats = [op for op in tflite.read_ops(made) if op.name in ("CONV_2D", "FULLY_CONNECTED")]
        assert {op.dtype for op in floats} == {"FLOAT32"}


def test_an_island_is_float_with_int8_weights(float_content, images):
    plan = tflite.make_plan(tflite.read_ops(float_content), "int8_mixed", calibration_images=16)
    row = next(op for op in plan.ops if op.name == "CONV_2D")
    plan = plan.with_floats((row.output,), "island: stem")
    made = tflite.quantize(float_content, tflite.calibrate(float_content, images), plan)
    assert {op.output: op.dtype for op in tflite.read_ops(made)}[row.output] == "FLOAT32"
    assert litert.is_fully_accelerated(made)
    assert "CONV_2D 1  (island: stem)" in str(plan)
    kernel = Graph(float_content).shape(Graph(float_content).operations[2].inputs[1])
    tensors = litert.interpreter(made).get_tensor_details()
    stems = [d for d in tensors if tuple(d["shape"]) == kernel]
    assert np.int8 in {d["dtype"] for d in stems}
