"""The quantization plan: for each op, the precision that it will have and the reason. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from keras_effnet.litert.ops import WITH_WEIGHTS, Op, count_ops
from tflite.presets import Preset, find_preset

# Ops that ai-edge-quantizer quantizes and XNNPACK runs in int8.
# fmt: off
_INT8 = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED",
    "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "RESHAPE", "SUB", "TANH", "TRANSPOSE",
))
# fmt: on
_FLOAT = {
    "SOFTMAX": "XNNPACK has no int8 softmax, and 256 levels give ties",
    "HARD_SWISH": "XNNPACK has no int8 hard-swish; the reference kernel is several times slower",
}
_PIXELS = "input normalization: pixels are quantized once, after it, at the same latency"
_SCORES = "output scores: 256 levels give ties, and float32 costs nothing here"
_NO_KERNEL = "no int8 kernel known"
_FLOAT_PRESET = "the preset computes in float32"


@dataclass(frozen=True)
class OpPlan:
    """One op of the float model and its precision."""

    name: str
    output: str  # its output tensor; quantizer rules match this name
    precision: str  # "int8" | "int16" | "float32"
    reason: str = ""  # why it stays in float32


@dataclass(frozen=True)
class QuantPlan:
    """The precision of every op. ``print(plan)`` summarizes it by op type."""

    preset: Preset
    ops: tuple[OpPlan, ...]
    calibration_images: int = 0
    range_description: str = ""  # how the quantization ranges are estimated

    def __str__(self):
        preset = self.preset
        lines = [f"preset   {preset.name}: {preset.purpose}"]
        if preset.input == "uint8":
            lines.append("input    uint8, scale 1, zero point 0: pixels as they are")
        else:
            lines.append("input    float32, pixels in [0, 255]")
        if preset.calibrated:
            images = f"{self.calibration_images:,} calibration images"
            lines.append(f"ranges   {'; '.join(filter(None, (self.range_description, images)))}")
        weights = f"{preset.weights}{', one scale per channel' if preset.weights == 'int8' else ''}"
        per_tensor = ", one scale per tensor" if preset.calibrated else ""
        lines.append(f"weights  {weights}; activations {preset.activations}{per_tensor}")
        for precision in dict.fromkeys(op.precision for op in self.ops):
            ops = [op for op in self.ops if op.precision == precision]
            for reason in dict.fromkeys(op.reason for op in ops):
                counts = count_ops([op for op in ops if op.reason == reason])
                text = ", ".join(f"{name} {n}" for name, n in counts.items())
                lines.append(f"{precision:<9}{text}{f'  ({reason})' if reason else ''}")
        lines.append(f"output   {preset.output}")
        return "\n".join(lines)

    def outputs(self, precision: str) -> set[str]:
        """The output tensors of the ops of that precision."""
        return {op.output for op in self.ops if op.precision == precision}

    def with_floats(self, outputs: Collection[str], reason: str) -> QuantPlan:
        """The plan with the ops that write these tensors in float32."""
        ops = tuple(
            dataclasses.replace(op, precision="float32", reason=reason)
            if op.output in outputs
            else op
            for op in self.ops
        )
        return dataclasses.replace(self, ops=ops)


def make_plan(
    ops: Iterable[Op],
    preset: Preset | str,
    *,
    calibration_images: int = 0,
    range_description: str = "",
) -> QuantPlan:
    """The :class:`QuantPlan` of a preset.

    An op gets the preset's precision if a fast kernel exists.

    Args:
        ops: ``tflite.read_ops`` of the float model.
        preset: a :class:`~tflite.presets.Preset` or its name.
        calibration_images: number of images that the ranges are estimated from.
        range_description: how the ranges are estimated, in words.
    """
    ops = tuple(ops)
    preset = find_preset(preset) if isinstance(preset, str) else preset
    first = next((i for i, op in enumerate(ops) if op.name in WITH_WEIGHTS), len(ops))
    last = _last_scores_op(ops)
    rows = []
    for index, op in enumerate(ops):
        if op.dtype == "FLOAT32":  # the others are shape arithmetic
            reason = _float_reason(op, preset, index < first, index - last)
            rows.append(
                OpPlan(op.name, op.output, "float32" if reason else preset.activations, reason)
            )
    return QuantPlan(preset, tuple(rows), calibration_images, range_description)


def can_quantize(op: OpPlan) -> bool:
    """Whether an op of a plan could also be quantized: it is, or stays in float32 by choice."""
    return op.precision != "float32" or (op.reason == _SCORES and op.name in _INT8)


def _last_scores_op(ops: Sequence[Op]) -> int:
    """Index of the op that computes the scores, before a final softmax or sigmoid."""
    last = len(ops) - 1
    while last > 0 and ops[last].name in ("SOFTMAX", "LOGISTIC"):
        last -= 1
    return last


def _float_reason(op, preset, before_weights, after_scores):
    """Why the op stays in float32; "" if it does not.

    `after_scores` is the op's position relative to the op that computes the scores.
    """
    all_quantized = preset.output == "uint8" or preset.activations == "int16"
    has_kernel = op.name in _INT8 or (all_quantized and op.name == "SOFTMAX")
    if not preset.calibrated:
        return _FLOAT_PRESET
    if not all_quantized:
        if op.name in _FLOAT:
            return _FLOAT[op.name]
        if before_weights:
            return _PIXELS
        if after_scores > 0 or (after_scores == 0 and op.name == "FULLY_CONNECTED"):
            return _SCORES
    return "" if has_kernel else _NO_KERNEL
