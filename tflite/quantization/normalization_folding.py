"""Folds the input normalization of a float model into its first convolution. Exact."""

from __future__ import annotations

import numpy as np

from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.equivalence import require_same_scores

_VALID = 1  # the schema's Padding.VALID


def fold_normalization(
    float32_model: bytes, *, border: str = "constant", images: np.ndarray | None = None
) -> bytes:
    """Bytes of the float .tflite whose first convolution takes pixels in [0, 255]; the same bytes
    for a network that starts differently.

    pixel * a + b goes into kernel and bias. But the convolution's zero padding stood for the pixel
    -b / a, and would now stand for black. Nothing is needed if b is 0 or nothing is padded.

    Args:
        float32_model: bytes of a float .tflite.
        border: "constant" concatenates a border of the pixel -b / a to the image; "subtract" keeps
            a subtraction in front, for hardware that can only pad with zeros.
        images: uint8 images that the scores are compared on; None leaves that to the caller.

    Raises:
        ConversionError: the scores change by more than 1e-4.
    """
    graph = Graph(float32_model)
    first = next((i for i, op in enumerate(graph.operations) if op.name in LINEAR), None)
    if not first:
        return float32_model
    steps, stem = graph.operations[:first], graph.operations[first]
    normalization = _scale_and_shift(graph, steps)
    if normalization is None or stem.name != "CONV_2D" or stem.inputs[0] != steps[-1].output:
        return float32_model
    readers = graph.consumers()
    if any(len(readers[tensor]) > 1 for tensor in (graph.input, *(s.output for s in steps))):
        return float32_model  # another op reads the pixels, too
    factor, shift = normalization
    before, after = padding(graph, stem)
    needs_border = np.any(shift) and any(before + after)
    kernel = graph.constant(stem.inputs[1]).astype(np.float64)
    zero = np.broadcast_to(-shift / factor, kernel.shape[-1:])  # the pixel that is normalized to 0
    graph.set_constant(stem.inputs[1], kernel * factor)
    if needs_border and border == "subtract":
        value = graph.add_constant("normalization/zero", zero.reshape(1, 1, 1, -1))
        source = graph.add_tensor("normalization/centered", graph.shape(graph.input))
        options, kind = graph.options("SubOptions")
        graph.insert(stem, "SUB", (graph.input, value), source, options, kind)
    else:
        source = graph.input
        bias = graph.constant(stem.inputs[2]).astype(np.float64)
        bias += (kernel * np.broadcast_to(shift, zero.shape)).sum((1, 2, 3))
        graph.set_constant(stem.inputs[2], bias)
        if needs_border:
            source = _with_border(graph, stem, zero, before, after)
            stem.raw.builtinOptions.padding = _VALID
    graph.rewire(stem, steps[-1].output, source)
    graph.remove(steps)
    folded = graph.content()
    if images is not None:
        require_same_scores(float32_model, folded, images, "folding the normalization")
    return folded


def padding(graph: Graph, conv) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, left), (bottom, right)): the number of zeros that a convolution pads with."""
    if conv.raw.builtinOptions.padding == _VALID:
        return (0, 0), (0, 0)
    _, *size, _ = graph.shape(conv.inputs[0])
    _, *kernel, _ = graph.shape(conv.inputs[1])
    strides = conv.raw.builtinOptions.strideH, conv.raw.builtinOptions.strideW
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides)]
    return tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)


def _scale_and_shift(graph, steps):
    """(a, b) of ops that compute pixel * a + b, one number or one per channel; None for others."""
    factor, shift, tensor = np.ones(1), np.zeros(1), graph.input
    for op in steps:
        if op.name not in ("MUL", "SUB", "ADD") or op.fused != "NONE" or op.inputs[0] != tensor:
            return None
        if not graph.is_constant(op.inputs[1]):
            return None
        value = graph.constant(op.inputs[1]).astype(np.float64).reshape(-1)
        if op.name == "MUL":
            factor, shift = factor * value, shift * value
        else:
            shift = shift + (value if op.name == "ADD" else -value)
        tensor = op.output
    return factor, shift


def _with_border(graph, before_op, pixel, before, after):
    """The tensor of the image with rows and columns of one pixel value around it."""
    tensor = graph.input
    for axis, (first, last) in enumerate(zip(before, after), start=1):
        shape = list(graph.shape(tensor))
        if not first and not last:
            continue

        def edge(count, name, axis=axis, shape=shape):
            size = [count if i == axis else shape[i] for i in (1, 2)]
            value = np.broadcast_to(pixel, (1, *size, shape[-1]))
            return graph.add_constant(f"normalization/border_{axis}_{name}", value)

        parts = [edge(first, "first")] if first else []
        parts += [tensor]
        parts += [edge(last, "last")] if last else []
        shape[axis] += first + last
        joined = graph.add_tensor(f"normalization/bordered_{axis}", tuple(shape))
        options, kind = graph.options("ConcatenationOptions")
        options.axis = axis
        graph.insert(before_op, "CONCATENATION", parts, joined, options, kind)
        tensor = joined
    return tensor
