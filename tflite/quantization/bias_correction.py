"""Bias correction: subtracts each channel's mean quantization error from its bias.

Rounded weights, clipped ranges and a sigmoid that ends at 255/256 shift the mean of each channel.
Unlike random errors, shifts add up from block to block. (Nagel et al. 2019, arXiv 1906.04721,
section 4.2; here the shift is measured instead of derived.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from keras_effnet.litert import ops, runner
from tflite.flatbuffer.graph import Graph
from tflite.flatbuffer.sections import Sections

IMAGES = 32
_THREADS = 2


def correct_biases(
    float32_model: bytes,
    images: np.ndarray,
    quantize: Callable[[bytes], bytes],
    ranges: Mapping[str, Mapping[str, float]] | None = None,
) -> bytes:
    """Bytes of the float .tflite with corrected biases: its quantized version has the channel means
    of the float version.

    Works layer by layer, front to back: each layer is measured after those before it have been
    corrected. (Several layers at once would be corrected twice for the same shift.) The model is
    quantized once; its int32 biases are then changed in place, and no operation in front of a
    changed one is computed again.

    Args:
        float32_model: bytes of a float .tflite.
        images: uint8 (n, height, width, 3); the first 32 are used.
        quantize: function from bytes of a float .tflite to bytes of its quantized version.
        ranges: {tensor: {"min", "max"}} of the quantized version. What they clip is no error to
            correct: before a swish, it is a tail without effect, and its mean can be large.
    """
    images = images[:IMAGES]
    graph = Graph(float32_model)
    quantized = bytearray(quantize(graph.content()))
    places = ops.bias_locations(quantized)
    layers = {graph.name(op.output): op for op in graph.operations}
    sections = Sections(quantized)
    names = sorted((name for name in layers if name in places), key=sections.position)
    wanted = channel_means(float32_model, images, names, ranges=ranges)
    values = sections.first(images)
    for name in names:
        start, scales = places[name]
        rows, values = sections.run(quantized, values, sections.position(name), _mean)
        # The median: with the mean, a few images that overflow their ranges would decide.
        shift = np.median(np.stack(rows) - wanted[name], 0)
        bias = np.frombuffer(quantized, np.int32, len(shift), start)
        moved = np.clip(bias - np.rint(shift / scales), -(2**31) + 1, 2**31 - 1)
        quantized[start : start + bias.nbytes] = moved.astype(np.int32).tobytes()
        tensor = layers[name].inputs[2]
        graph.set_constant(tensor, graph.constant(tensor) - shift)
    return graph.content()


def channel_means(
    model: bytes,
    images: np.ndarray,
    tensors: Collection[str] | None = None,
    *,
    ranges: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, np.ndarray]:
    """{tensor: float64 (images, channels)} of each channel's mean over each image, dequantized.

    Args:
        model: bytes of a float or quantized .tflite.
        images: uint8 (n, height, width, 3).
        tensors: names; None for the output.
        ranges: {tensor: {"min", "max"}} that the values are clipped to; None: not clipped.
    """
    ranges = ranges or {}
    rows = [
        {name: _mean(values, name, ranges.get(name)) for name in values}
        for values in runner.run(model, images, tensors, threads=_THREADS)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _mean(values, name, bounds=None):
    value = values[name]
    if bounds is not None:
        value = np.clip(value, bounds["min"], bounds["max"])
    mean = value.reshape(-1, value.shape[-1]).mean(0, np.float64)
    if value.dtype == np.float32:
        return mean
    scale, zero = values.quantization(name)
    return (mean - zero) * scale
