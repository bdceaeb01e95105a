"""Float .tflite -> plan -> int8 .tflite. The plan says, op by op, which precision and why; the
conversion only walks it.
"""

import re
from dataclasses import dataclass

from tflite import graph, litert
from tflite.calibrate import RANGE_RULE

# Ops that the quantizer takes and XNNPACK runs in int8.
# fmt: off
_INT8 = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED",
    "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "RESHAPE", "SUB", "TANH", "TRANSPOSE",
))
# fmt: on
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_FLOAT = {
    "SOFTMAX": "XNNPACK has no int8 softmax, and steps of 1/256 make ties",
    "HARD_SWISH": "XNNPACK has no int8 hard-swish; its slow kernel takes several times longer",
}
_PIXELS = "pixels are normalised before they are rounded: one rounding, and no slower"
_SCORES = "the scores: steps of 1/256 make ties"
_NO_KERNEL = "not known to run in int8"


@dataclass(frozen=True)
class OpPlan:
    """One op of the float model and the precision that it will have."""

    name: str
    output: str  # its output tensor, which is what a quantizer's rule matches
    precision: str  # "int8" | "float32"
    why: str = ""  # of float32


@dataclass(frozen=True)
class QuantPlan:
    """Which op is converted to what. ``print(plan)`` sums it up by type of op."""

    ops: "tuple[OpPlan, ...]"
    calibration_images: int
    range_rule: str

    def __str__(self):
        lines = [
            "input    uint8, scale 1, zero point 0: a pixel is its own code",
            f"ranges   {self.range_rule}; {self.calibration_images:,} calibration images",
            "weights  int8, one scale a channel; activations int8, one scale a tensor",
        ]
        for precision in ("int8", "float32"):
            chosen = [op for op in self.ops if op.precision == precision]
            for why in dict.fromkeys(op.why for op in chosen):
                counts = graph.census([op for op in chosen if op.why == why])
                text = ", ".join(f"{name} {n}" for name, n in counts.items())
                lines.append(f"{precision:<9}{text}{f'  ({why})' if why else ''}")
        lines.append("output   float32")
        return "\n".join(lines)


def plan_int8(ops, *, calibration_images, range_rule=RANGE_RULE):
    """The :class:`QuantPlan` that makes every op int8 which runs well in int8. Pure.

    Args:
        ops: ``graph.read_ops`` of the float .tflite.
        calibration_images: how many images the ranges come from.
        range_rule: how the ranges follow from them, in words.
    """
    first = next((i for i, op in enumerate(ops) if op.name in _WITH_WEIGHTS), len(ops))
    rows = []
    for index, op in enumerate(ops):
        if op.dtype != "FLOAT32":
            continue  # shape arithmetic
        if op.name in _FLOAT:
            why = _FLOAT[op.name]
        elif index < first:
            why = _PIXELS
        elif op.name == "LOGISTIC" and index == len(ops) - 1:
            why = _SCORES
        else:
            why = "" if op.name in _INT8 else _NO_KERNEL
        rows.append(OpPlan(op.name, op.output, "float32" if why else "int8", why))
    return QuantPlan(tuple(rows), calibration_images, range_rule)


def quantize(float_tflite, ranges, plan):
    """Bytes of a .tflite: images (1, height, width, 3) uint8 -> scores (1, classes) float32, int8
    between.

    Args:
        float_tflite: bytes of the float32 .tflite.
        ranges: {tensor: {"min", "max"}}, as ``calibrate`` gives them, edited or not.
        plan: a :class:`QuantPlan` of the same model.

    Raises:
        ValueError: tensors without a range.
        ConversionError: the product does not follow the plan.
    """
    names = [op.output for op in plan.ops if op.precision == "int8"]
    missing = [name for name in names if name not in ranges]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} tensors have no range, e.g. {missing[0]!r}: calibrate "
            "this very model"
        )
    rules = [(op.name, f"^{re.escape(op.output)};") for op in plan.ops if op.precision == "float32"]
    content = graph.uint8_input(litert.static_int8(float_tflite, ranges, rules))
    _check(content, plan)
    return content


def _check(content, plan):
    got = {op.output: op.dtype for op in graph.read_ops(content)}
    want = {op.output: "INT8" if op.precision == "int8" else "FLOAT32" for op in plan.ops}
    wrong = [f"{n} is {got.get(n)}, not {t}" for n, t in want.items() if got.get(n) != t]
    source, sink = graph.quantization(content)
    if source != ("UINT8", 1.0, 0):
        wrong.append(f"the input is {source}, not uint8 with scale 1 and zero point 0")
    if sink[0] != "FLOAT32":
        wrong.append(f"the output is {sink[0]}, not FLOAT32")
    if wrong:
        raise graph.ConversionError(
            f"ai-edge-quantizer did not follow the plan in {len(wrong)} places: "
            + "; ".join(wrong[:5])
        )
