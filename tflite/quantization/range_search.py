"""Range search: moves single quantization ranges if that lowers the KL divergence end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras_effnet.litert import classifier
from tflite.evaluation import sqnr
from tflite.flatbuffer.graph import Graph
from tflite.quantization.objective import Objective
from tflite.quantization.plan import QuantPlan
from tflite.quantization.quantizer import quantize

_FACTORS = (0.8, 1.25)  # tried on each end of a range
_MIN_IMPROVEMENT = 0.01  # of the divergence; a smaller one is not kept
_PATIENCE = 4  # tensors in a row without improvement that end the search
_SQNR_IMAGES = 8
_NO_SQNR = 999.0  # dB, of a tensor that could not be matched: tried last


def search_ranges(
    float32_model: bytes,
    ranges: dict,
    plan: QuantPlan,
    objective: Objective,
    *,
    evaluations: int,
    tensors: Sequence[str] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[dict, int]:
    """(ranges, number of tensors tried), with the ends moved that lower the divergence.

    Args:
        float32_model: bytes of the float .tflite.
        ranges: {tensor: {"min", "max"}} to start from.
        plan: the plan that the model is quantized with.
        objective: an :class:`~tflite.quantization.objective.Objective`.
        evaluations: how many models may be evaluated; the last tensor's may exceed it. The search
            ends earlier after four tensors in a row without improvement.
        tensors: names in the order in which they are tried. Default: lowest SQNR first.
        log: called with a line of text per tensor.
    """
    if evaluations <= 0:
        return ranges, 0
    model = quantize(float32_model, ranges, plan)
    best, tried, left = objective(model)[0], 0, evaluations - 1
    if tensors is None:
        names = searchable_tensors(Graph(float32_model), ranges)
        tensors = noisiest_first(float32_model, model, objective.images[:_SQNR_IMAGES], names)
    unchanged = 0
    for name in tensors:
        if left <= 0 or unchanged == _PATIENCE:
            break
        tried, unchanged = tried + 1, unchanged + 1
        for end in ("max", "min"):
            for factor in _FACTORS:
                moved = {**ranges, name: {**ranges[name], end: ranges[name][end] * factor}}
                kl, left = objective(quantize(float32_model, moved, plan))[0], left - 1
                if kl < best * (1 - _MIN_IMPROVEMENT):
                    best, ranges, unchanged = kl, moved, 0
                    break
        log(f"  {name}: KL divergence {best:.5f}")
    return ranges, tried


def searchable_tensors(graph: Graph, ranges: dict) -> list[str]:
    """Names of the tensors whose range is free: not the input's, and not that of a sigmoid."""
    fixed = {graph.name(op.output) for op in graph.operations if op.name == "LOGISTIC"}
    fixed.add(graph.name(graph.input))
    names = dict.fromkeys(graph.name(op.output) for op in graph.operations)
    return [name for name in names if name in ranges and name not in fixed]


def noisiest_first(float32_model: bytes, model: bytes, images, names: Sequence[str]) -> list[str]:
    """The names sorted by signal-to-quantization-noise ratio (SQNR), the lowest first."""
    blocks = sqnr.sqnr_by_block(
        classifier.open_classifier(float32_model), classifier.open_classifier(model), images
    )
    sqnr_db = {tensor.name: tensor.sqnr_db for block in blocks for tensor in block.tensors}
    return sorted(names, key=lambda name: sqnr_db.get(name, _NO_SQNR))
