"""Float32 .tflite and plan -> quantized .tflite, checked against the plan."""

from __future__ import annotations

import re

from keras_effnet.litert import ops
from tflite import ai_edge_quantizer
from tflite.flatbuffer import rewrite
from tflite.quantization.plan import QuantPlan


def quantize(float32_model: bytes, ranges: dict | None, plan: QuantPlan) -> bytes:
    """Bytes of the .tflite that a plan describes: images (1, height, width, 3) -> scores (1,
    classes).

    Args:
        float32_model: bytes of the float32 .tflite.
        ranges: {tensor: {"min", "max"}}, as ``calibrate`` returns them, edited or not; None for a
            preset without calibration.
        plan: a :class:`~tflite.quantization.plan.QuantPlan` of the same model.

    Raises:
        ValueError: a tensor has no range, or a strict preset has an op without an int8 kernel.
        ConversionError: the converted file does not follow the plan.
    """
    preset = plan.preset
    if preset.name == "float32":
        return float32_model
    if not preset.calibrated:
        model = ai_edge_quantizer.float_activations(float32_model, preset.weights)
        _check(model, plan)
        return model
    names = [op.output for op in plan.ops if op.precision != "float32"]
    missing = [name for name in names if name not in ranges]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} tensors have no range, e.g. {missing[0]!r}: calibrate "
            "the model that you quantize"
        )
    floats = [op for op in plan.ops if op.precision == "float32"]
    if preset.output == "uint8" and floats:
        raise ValueError(
            f"preset {preset.name} allows no float32 op, but {len(floats)} op(s) have no int8 "
            f"kernel, e.g. {floats[0].name}: use preset int8"
        )
    rules = [(op.name, f"^{re.escape(op.output)};") for op in floats]
    model = ai_edge_quantizer.static(
        float32_model,
        ranges,
        rules,
        activations=preset.activations,
        float_ends=preset.output == "float32",
    )
    if preset.output == "uint8":
        model = rewrite.uint8_input_output(model)
    elif preset.input == "uint8":
        model = rewrite.uint8_input(model)
    _check(model, plan)
    return model


def _check(model, plan):
    types = {op.output: op.dtype for op in ops.read_ops(model)}
    if plan.preset.output == "uint8":  # a conversion to uint8 follows the last op
        types[plan.ops[-1].output] = types.get(f"{plan.ops[-1].output}_int8")
    wanted = {op.output: op.precision.upper() for op in plan.ops}
    wrong = [f"{n} is {types.get(n)}, not {t}" for n, t in wanted.items() if types.get(n) != t]
    source, sink = ops.quantization(model)
    if plan.preset.input == "uint8" and source != ("UINT8", 1.0, 0):
        wrong.append(f"the input is {source}, not uint8 with scale 1 and zero point 0")
    if source[0] != plan.preset.input.upper():
        wrong.append(f"the input is {source[0]}, not {plan.preset.input}")
    if sink[0] != plan.preset.output.upper():
        wrong.append(f"the output is {sink[0]}, not {plan.preset.output}")
    if wrong:
        raise ops.ConversionError(
            f"ai-edge-quantizer did not follow the plan in {len(wrong)} places: "
            + "; ".join(wrong[:5])
        )
