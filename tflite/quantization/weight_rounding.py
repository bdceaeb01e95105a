"""GPTQ-style weight rounding: each weight compensates the rounding error of the previous ones.

The nearest quantized value is best for a single weight, not for the sum that it is part of: the
inputs of a layer are correlated, so the next weights can cancel the error of one. (Frantar et al.
2022, arXiv 2210.17323, section 3: least squares, one column after the other, in closed form.) The
remaining change of a channel's mean goes into its bias.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_effnet.litert import runner
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.normalization_folding import padding

_MAXIMUM = 127  # largest quantized weight
_POSITIONS = 64  # per image, at most, at which a layer's inputs are sampled
_MAX_INPUTS = 2560  # of a sum; the products of more inputs take too much memory
_DAMPING = 0.01  # of the inputs' variance
_INPUT_ERROR = 1e-4  # of the inputs' mean square: their own rounding, 256 levels for 9 deviations
_GROUP = 8  # images whose products are summed in one matrix product
_THREADS = 2  # each takes half of the images; the split affects the last bits of the sums


def round_weights(float32_model: bytes, images: np.ndarray) -> bytes:
    """Bytes of the float .tflite with rounded kernels and corrected biases.

    Every kernel holds values that int8 quantization represents exactly. They are chosen so that the
    outputs of each layer change as little as possible on the images.

    Args:
        float32_model: bytes of a float .tflite.
        images: uint8 (n, height, width, 3), in hash order.
    """
    from threadpoolctl import threadpool_limits  # of the extra "tflite"

    graph = Graph(float32_model)
    layers = [Layer(graph, op) for op in graph.operations if can_round(graph, op)]
    inputs = sorted({layer.op.inputs[0] for layer in layers})
    parts = [part for part in np.array_split(images, _THREADS) if len(part)]
    runs = [iter(runner.run(float32_model, part, inputs)) for part in parts]
    # One BLAS thread each: more would wait for one another, and sum in another order.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        sums = _moments(layers, runs, pool)
        for layer in layers:
            weight, mean, square = sums.pop(0)
            square /= weight
            layer.round(graph, mean / weight, square)
    return graph.content()


def can_round(graph: Graph, op) -> bool:
    """Whether an op is a linear layer with constant float weights that are rounded here."""
    if op.name not in LINEAR or not graph.is_constant(op.inputs[1]):
        return False
    if not graph.is_float(op.inputs[1]):
        return False
    options = op.raw.builtinOptions
    if max(getattr(options, f"dilation{axis}Factor", 1) for axis in "HW") > 1:
        return False
    kernel, channels = graph.shape(op.inputs[1]), graph.shape(op.inputs[0])[-1]
    if op.name == "DEPTHWISE_CONV_2D":
        return kernel[-1] == channels  # a depth multiplier of 1
    return kernel[-1] == channels and int(np.prod(kernel[1:])) <= _MAX_INPUTS  # no groups


class Layer:
    """A linear op as a product of weights (groups, sums, inputs) with inputs.

    A depthwise convolution has one group per channel, every other op one group.
    """

    def __init__(self, graph, op):
        self.op, self.depthwise = op, op.name == "DEPTHWISE_CONV_2D"
        kernel = graph.shape(op.inputs[1])
        window = kernel[1:3] if len(kernel) == 4 else (1, 1)
        size = graph.shape(op.inputs[0])[1:3] if len(kernel) == 4 else (1, 1)
        self.is_dense = window == size == (1, 1)
        if self.is_dense:
            return
        options, (before, after) = op.raw.builtinOptions, padding(graph, op)
        strides = options.strideH, options.strideW
        starts = [
            np.arange(0, size[i] + before[i] + after[i] - window[i] + 1, strides[i]) - before[i]
            for i in (0, 1)
        ]
        positions = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
        positions = positions[:: -(-len(positions) // _POSITIONS)]
        offsets = np.indices(window).reshape(2, -1)
        pixels = positions.T[:, :, None] + offsets[:, None]  # (2, positions, window)
        last = np.reshape(size, (2, 1, 1)) - 1
        self.outside = ((pixels < 0) | (pixels > last)).any(0)
        self.pixels = tuple(np.clip(pixels, 0, last))

    def weights(self, graph):
        """(groups, sums, inputs) of the kernel (out, height, width, in)."""
        kernel = graph.constant(self.op.inputs[1])
        if self.depthwise:
            return kernel.reshape(-1, kernel.shape[-1]).T[:, None]
        return kernel.reshape(1, len(kernel), -1)

    def inputs(self, value):
        """(groups, positions, inputs) of the layer's input on one image, as a copy."""
        if self.is_dense:
            return value.reshape(1, -1, value.shape[-1]).copy()
        patches = value[0][self.pixels]
        patches[self.outside] = 0
        if self.depthwise:  # (positions, window, channels)
            return np.moveaxis(patches, -1, 0)
        return patches.reshape(1, len(patches), -1)

    def round(self, graph, mean, square):
        """Rounds the kernel and corrects the bias.

        Args:
            graph: the network to change.
            mean: (groups, inputs), the mean of the inputs.
            square: (groups, inputs, inputs), the mean of their products.
        """
        kernel, bias = self.op.inputs[1], (*self.op.inputs, -1)[2]
        has_bias = bias >= 0 and graph.is_constant(bias)
        input_error = _INPUT_ERROR * np.einsum("gii->gi", square).mean(-1)
        if has_bias:  # the bias absorbs the change of the mean
            products = mean[:, :, None] * mean[:, None, :]
            square = np.subtract(square, products, out=products)
        else:
            square = square.astype(np.float64)
        np.einsum("gii->gi", square)[...] += input_error[:, None]
        weights = self.weights(graph)
        rounded = round_to_grid(weights, square)
        if has_bias:
            shift = ((weights - rounded) * mean[:, None]).sum(-1).reshape(-1)
            graph.set_constant(bias, graph.constant(bias) + shift)
        if self.depthwise:
            rounded = rounded[:, 0].T
        graph.set_constant(kernel, rounded.reshape(graph.shape(kernel)))


def _moments(layers, runs, pool):
    """[[weight, sum of a layer's inputs, sum of their products], ...] over the images of all runs.

    Each image is weighted by the inverse of its mean square. The runs compute side by side, and the
    threads then share the layers: every product of inputs is in memory once.
    """
    sums = [[0.0, 0.0, np.float32(0)] for _ in layers]
    while groups := [group for group in pool.map(lambda run: _scaled(layers, run), runs) if group]:
        list(pool.map(_add, sums, *groups))
    return sums


def _scaled(layers, rows):
    """[(weight, weighted sum of the inputs, scaled inputs of the images), ...] of the next images
    of a run; [] at its end.
    """
    inputs = [(layer, [], [], []) for layer in layers]
    for values in itertools.islice(rows, _GROUP):
        for layer, weights, means, scaled in inputs:
            value = layer.inputs(values.view(layer.op.inputs[0]))
            weight = 1 / max(float(np.mean(value**2)), 1e-12)
            weights.append(weight)
            means.append(weight * value.mean(1, dtype=np.float64))
            scaled.append(value * np.float32(np.sqrt(weight / value.shape[1])))
    if not any(weights for _, weights, _, _ in inputs):
        return []
    return [
        (sum(weights), sum(means), np.concatenate(scaled, 1))
        for _, weights, means, scaled in inputs
    ]


def _add(total, *groups):
    for weight, mean, scaled in groups:
        products = scaled.swapaxes(1, 2) @ scaled
        total[0], total[1] = total[0] + weight, total[1] + mean
        total[2] = np.add(total[2], products, out=products)


def round_to_grid(weights: np.ndarray, square: np.ndarray) -> np.ndarray:
    """The weights (groups, sums, inputs) rounded to 255 levels per sum; the largest weight of a sum
    stays, so that the scale does not change.

    Rounding one input after the other, the change of weights @ inputs is kept as small as possible.
    With square = U D U', U upper triangular with ones on its diagonal, the change is the sum over
    inputs k of D[k] (e[k] + sum over j < k of e[j] U[j, k]) ** 2, with the rounding errors e: the
    weighted errors of the previous inputs are added to a weight before it is rounded.

    Args:
        weights: float.
        square: (groups, inputs, inputs), mean products of the inputs.
    """
    square = np.array(square, np.float64)
    diagonal = np.einsum("gii->gi", square)  # a view
    diagonal += np.maximum(_DAMPING * diagonal.mean(-1, keepdims=True), 1e-12)
    order = np.argsort(diagonal, axis=-1, kind="stable")  # most important last, reversed below
    square = np.take_along_axis(square, order[:, :, None], 1)
    square = np.take_along_axis(square, order[:, None, :], 2)
    lower = np.linalg.cholesky(square)
    upper = lower[:, ::-1, ::-1]
    upper = (upper / np.einsum("gii->gi", upper)[:, None, :]).astype(np.float32)
    order = order[:, ::-1]

    # inputs first: (groups, inputs, sums)
    weights = np.take_along_axis(weights, order[:, None, :], 2).swapaxes(1, 2)
    scale = np.abs(weights).max(1) / np.float32(_MAXIMUM)
    scale[scale == 0] = 1.0
    largest = np.abs(weights).argmax(1)
    maximum = np.sign(np.take_along_axis(weights, largest[:, None], 1))[:, 0] * _MAXIMUM
    errors = np.zeros(weights.shape, np.float32)
    for k in range(weights.shape[1]):
        wanted = weights[:, k] + (upper[:, None, :k, k] @ errors[:, :k])[:, 0]
        quantized = np.clip(np.rint(wanted / scale), -_MAXIMUM, _MAXIMUM)
        quantized = np.where(largest == k, maximum, quantized)  # keeps the scale
        errors[:, k] = weights[:, k] - quantized * scale
    rounded = np.empty(weights.shape, np.float32)
    np.put_along_axis(rounded, order[:, :, None], weights - errors, 1)
    return rounded.swapaxes(1, 2)
