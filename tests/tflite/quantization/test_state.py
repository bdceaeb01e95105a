import dataclasses

import numpy as np

import tflite
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.state import State


def test_float32_layers_get_uncompensated_biases(trained_v1):
    """A bias that compensates int8 errors is wrong where there are none."""
    before = Graph(trained_v1)
    biased = [op for op in before.operations if op.name in LINEAR and op.inputs[2] >= 0]
    compensated = Graph(trained_v1)
    for op in biased:
        bias = compensated.constant(op.inputs[2]) + 1
        compensated.set_constant(op.inputs[2], bias)
    state = State(compensated.content(), uncompensated_model=trained_v1)
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8")
    some = {before.name(op.output) for op in biased[3:5]}
    plan = plan.with_floats(some, "float32 region")
    after = Graph(state.model_for(plan))
    floats = plan.outputs("float32")
    assert some < floats
    for op, now in zip(before.operations, after.operations):
        if op.name in LINEAR and op.inputs[2] >= 0:
            change = after.constant(now.inputs[2]) - before.constant(op.inputs[2])
            wanted = 0 if before.name(op.output) in floats else 1
            np.testing.assert_allclose(change, wanted, atol=1e-5)


def test_state_is_quantized_by_a_plan(trained_v1, photos):
    ranges = tflite.calibrate(trained_v1, photos[:16])
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8", calibration_images=16)
    state = State(trained_v1, ranges, uncompensated_model=trained_v1)
    assert state.quantized(plan) == tflite.quantize(trained_v1, ranges, plan)
    assert state.quantized_with_regions(plan) == state.quantized(plan)
    assert dataclasses.replace(state, estimator="mse").float32_model is trained_v1
