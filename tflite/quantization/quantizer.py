"""Float .tflite -> plan -> quantized .tflite. The plan says, op by op, which precision and why; the
conversion only walks it.
"""

import dataclasses
import re
from dataclasses import dataclass

from tflite import litert
from tflite.flatbuffer import ops, rewrite
from tflite.flatbuffer.ops import WITH_WEIGHTS
from tflite.presets import Preset, find_preset
from tflite.quantization.range_estimation import RULES

# Ops that the quantizer takes and XNNPACK runs in int8.
# fmt: off
_INT8 = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED",
    "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "RESHAPE", "SUB", "TANH", "TRANSPOSE",
))
# fmt: on
_FLOAT = {
    "SOFTMAX": "XNNPACK has no int8 softmax, and steps of 1/256 make ties",
    "HARD_SWISH": "XNNPACK has no int8 hard-swish; its slow kernel takes several times longer",
}
_PIXELS = "pixels are prepared before they are rounded: one rounding, and no slower"
_SCORES = "the scores: 256 steps make ties, and float costs nothing here"
_NO_KERNEL = "not known to run in int8"
_KEPT = "the preset computes in float"


@dataclass(frozen=True)
class OpPlan:
    """One op of the float model and the precision that it will have."""

    name: str
    output: str  # its output tensor, which is what a quantizer's rule matches
    precision: str  # "int8" | "int16" | "float32"
    why: str = ""  # of float32


@dataclass(frozen=True)
class QuantPlan:
    """Which op is converted to what. ``print(plan)`` sums it up by type of op."""

    preset: Preset
    ops: "tuple[OpPlan, ...]"
    calibration_images: int = 0
    range_rule: str = RULES["minmax"]

    def __str__(self):
        preset = self.preset
        lines = [f"preset   {preset.name}: {preset.purpose}"]
        if preset.input == "uint8":
            lines.append("input    uint8, scale 1, zero point 0: a pixel is its own code")
        else:
            lines.append("input    float32, pixels in [0, 255]")
        if preset.calibrated:
            lines.append(
                f"ranges   {self.range_rule}; {self.calibration_images:,} calibration images"
            )
        weights = f"{preset.weights}{', one scale a channel' if preset.weights == 'int8' else ''}"
        one = ", one scale a tensor" if preset.calibrated else ""
        lines.append(f"weights  {weights}; activations {preset.activations}{one}")
        for precision in dict.fromkeys(op.precision for op in self.ops):
            chosen = [op for op in self.ops if op.precision == precision]
            for why in dict.fromkeys(op.why for op in chosen):
                counts = ops.count_ops([op for op in chosen if op.why == why])
                text = ", ".join(f"{name} {n}" for name, n in counts.items())
                lines.append(f"{precision:<9}{text}{f'  ({why})' if why else ''}")
        lines.append(f"output   {preset.output}")
        return "\n".join(lines)

    def with_floats(self, outputs, why):
        """The plan with the ops that write these tensors in float32."""
        rows = tuple(
            dataclasses.replace(op, precision="float32", why=why) if op.output in outputs else op
            for op in self.ops
        )
        return dataclasses.replace(self, ops=rows)


def make_plan(ops, preset, *, calibration_images=0, range_rule=RULES["minmax"]):
    """The :class:`QuantPlan` of a preset: every op in the precision of the preset's activations
    that runs well in it. Pure.

    Args:
        ops: ``read_ops`` of the float .tflite.
        preset: a :class:`~tflite.presets.Preset` or its name.
        calibration_images: how many images the ranges come from.
        range_rule: how the ranges follow from them, in words.
    """
    preset = find_preset(preset) if isinstance(preset, str) else preset
    first = next((i for i, op in enumerate(ops) if op.name in WITH_WEIGHTS), len(ops))
    everything = preset.output == "uint8" or preset.activations == "int16"
    last = len(ops) - 1
    while last > 0 and ops[last].name in ("SOFTMAX", "LOGISTIC"):
        last -= 1  # to what gives the scores
    rows = []
    for index, op in enumerate(ops):
        if op.dtype != "FLOAT32":
            continue  # shape arithmetic
        known = op.name in _INT8 or (everything and op.name == "SOFTMAX")
        if not preset.calibrated:
            why = _KEPT
        elif everything:
            why = "" if known else _NO_KERNEL
        elif op.name in _FLOAT:
            why = _FLOAT[op.name]
        elif index < first:
            why = _PIXELS
        elif index > last or (index == last and op.name == "FULLY_CONNECTED"):
            why = _SCORES
        else:
            why = "" if known else _NO_KERNEL
        rows.append(OpPlan(op.name, op.output, "float32" if why else preset.activations, why))
    return QuantPlan(preset, tuple(rows), calibration_images, range_rule)


def quantize(float32_model, ranges, plan):
    """Bytes of the .tflite that a plan describes: images (1, height, width, 3) -> scores (1,
    classes).

    Args:
        float32_model: bytes of the float32 .tflite.
        ranges: {tensor: {"min", "max"}}, as ``calibrate`` gives them, edited or not; None for a
            preset without calibration.
        plan: a :class:`QuantPlan` of the same model.

    Raises:
        ValueError: tensors without a range; a strict preset with an op that has to stay float.
        ConversionError: the product does not follow the plan.
    """
    preset = plan.preset
    if preset.name == "float32":
        return float32_model
    if not preset.calibrated:
        content = litert.float_activations(float32_model, preset.weights)
        _check(content, plan)
        return content
    names = [op.output for op in plan.ops if op.precision != "float32"]
    missing = [name for name in names if name not in ranges]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} tensors have no range, e.g. {missing[0]!r}: calibrate "
            "this very model"
        )
    floats = [op for op in plan.ops if op.precision == "float32"]
    if preset.output == "uint8" and floats:
        raise ValueError(
            f"preset {preset.name} takes no float, and {floats[0].name} has no int8 version here "
            f"({len(floats)} such operations): take preset int8"
        )
    rules = [(op.name, f"^{re.escape(op.output)};") for op in floats]
    content = litert.static(
        float32_model,
        ranges,
        rules,
        activations=preset.activations,
        float_ends=preset.output == "float32",
    )
    if preset.output == "uint8":
        content = rewrite.uint8_input_output(content)
    elif preset.input == "uint8":
        content = rewrite.uint8_input(content)
    _check(content, plan)
    return content


def _check(content, plan):
    got = {op.output: op.dtype for op in ops.read_ops(content)}
    if plan.preset.output == "uint8":  # the last op, before it is handed over
        got[plan.ops[-1].output] = got.get(f"{plan.ops[-1].output}_int8")
    want = {op.output: op.precision.upper() for op in plan.ops}
    wrong = [f"{n} is {got.get(n)}, not {t}" for n, t in want.items() if got.get(n) != t]
    source, sink = ops.quantization(content)
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
