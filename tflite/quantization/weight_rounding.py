"""Weights on their int8 grid, each rounded so that it makes up for those rounded before it.

The nearest code is best for a weight by itself, not for the sum that it is part of: a layer's
inputs go together, and what the rounding of one weight adds, the next ones can take off. (Frantar
et al. 2022, arXiv 2210.17323, section 3: least squares, one column after the other, in closed
form.) What rounding adds to the mean of a channel all the same goes into its bias.
"""

import concurrent.futures

import numpy as np

from tflite import litert
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.equalization import padding

_CODES = 127  # of a weight, on each side of 0
_POSITIONS = 64  # of an image, at most, that a layer's inputs are taken at
_WIDEST = 2560  # inputs to a sum: of more, all their products take too much memory
_DAMPING = 0.01  # of the inputs' variance
_NOISE = 1e-4  # of the inputs' mean square: their own rounding, 256 codes for some 9 deviations
_AT_ONCE = 8  # images that are summed up together
_THREADS = 2  # with half of the images each


def round_weights(content, images):
    """Bytes of the float .tflite with every kernel on the int8 grid that its quantization will
    have, and biases to match: as little changed in what each layer hands on as int8 weights allow.

    Args:
        content: bytes of a float .tflite.
        images: uint8 (n, height, width, 3), in an order of their own.
    """
    network = Graph(content)
    layers = [_Layer(network, op) for op in network.operations if _takes_part(network, op)]
    parts = [part for part in np.array_split(images, _THREADS) if len(part)]
    made = [litert.interpreter(content, keep_tensors=True) for _ in parts]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        halves = list(pool.map(lambda m, part: _moments(network, layers, m, part), made, parts))
    for index, layer in enumerate(layers):
        weight, mean, square = (sum(each) for each in zip(*(half[index] for half in halves)))
        layer.round(network, mean / weight, square / weight)
    return network.content()


def _takes_part(network, op):
    if op.name not in LINEAR or not network.is_constant(op.inputs[1]):
        return False
    if not network.is_float(op.inputs[1]):
        return False
    options = op.raw.builtinOptions
    if max(getattr(options, f"dilation{way}Factor", 1) for way in "HW") > 1:
        return False
    kernel, channels = network.shape(op.inputs[1]), network.shape(op.inputs[0])[-1]
    if op.name == "DEPTHWISE_CONV_2D":
        return kernel[-1] == channels  # one multiplier a channel
    return kernel[-1] == channels and int(np.prod(kernel[1:])) <= _WIDEST  # no groups


class _Layer:
    """One linear operation as `groups` products of weights (sums, inputs) with inputs that go
    together: a depthwise convolution has a group a channel, every other one group.
    """

    def __init__(self, network, op):
        self.op, self.depthwise = op, op.name == "DEPTHWISE_CONV_2D"
        kernel = network.shape(op.inputs[1])
        self.window = kernel[1:3] if len(kernel) == 4 else (1, 1)
        self.size = network.shape(op.inputs[0])[1:3] if len(kernel) == 4 else (1, 1)

    def weights(self, network):
        """(groups, sums, inputs) of the kernel (out, height, width, in)."""
        kernel = network.constant(self.op.inputs[1])
        if self.depthwise:
            return kernel.reshape(-1, kernel.shape[-1]).T[:, None]
        return kernel.reshape(1, len(kernel), -1)

    def inputs(self, network, value):
        """(groups, positions, inputs) of the layer's input on one image."""
        if self.window == (1, 1) and self.size == (1, 1):
            return value.reshape(1, -1, value.shape[-1])
        options = self.op.raw.builtinOptions
        before, after = padding(network, self.op)
        value = np.pad(value[0], (*zip(before, after), (0, 0)))
        tops = range(0, value.shape[0] - self.window[0] + 1, options.strideH)
        lefts = range(0, value.shape[1] - self.window[1] + 1, options.strideW)
        places = np.array([(top, left) for top in tops for left in lefts])
        places = places[:: -(-len(places) // _POSITIONS)]
        down, right = (np.indices(self.window)).reshape(2, -1)
        found = value[places[:, :1] + down, places[:, 1:] + right]  # (positions, window, channels)
        if self.depthwise:
            return np.moveaxis(found, -1, 0)
        return found.reshape(1, len(found), -1)

    def round(self, network, mean, square):
        """Puts the kernel on its grid, given the inputs' mean (groups, inputs) and the mean of
        their products (groups, inputs, inputs).
        """
        kernel, bias = self.op.inputs[1], (*self.op.inputs, -1)[2]
        has_bias = bias >= 0 and network.is_constant(bias)
        noise = _NOISE * np.einsum("gii->gi", square).mean(-1)
        if has_bias:  # which takes what concerns the mean
            square = square - mean[:, :, None] * mean[:, None, :]
        square = square + noise[:, None, None] * np.eye(mean.shape[-1])
        weights = self.weights(network)
        rounded = round_to_grid(weights, square)
        if has_bias:
            shift = ((weights - rounded) * mean[:, None]).sum(-1).reshape(-1)
            network.set_constant(bias, network.constant(bias) + shift)
        if self.depthwise:
            rounded = rounded[:, 0].T
        network.set_constant(kernel, rounded.reshape(network.shape(kernel)))


def _moments(network, layers, made, images):
    """[[weight, mean of a layer's inputs, mean of their products], ...], summed over the images,
    each image weighed by the inverse of its mean square.
    """
    feed = made.get_input_details()[0]["index"]
    sums = [[0.0, 0.0, 0.0] for _ in layers]
    for few in np.array_split(images, -(-len(images) // _AT_ONCE)):
        rows = [[] for _ in layers]
        for image in few:
            made.set_tensor(feed, image[None].astype(np.float32))
            made.invoke()
            for layer, total, found in zip(layers, sums, rows):
                value = layer.inputs(network, made.get_tensor(layer.op.inputs[0]))
                weight = 1 / max(float(np.mean(value**2)), 1e-12)
                total[0] += weight
                total[1] = total[1] + weight * value.mean(1, dtype=np.float64)
                found.append(value * np.float32(np.sqrt(weight / value.shape[1])))
        for total, found in zip(sums, rows):
            found = np.concatenate(found, 1)
            total[2] = total[2] + found.swapaxes(1, 2) @ found
    return sums


def round_to_grid(weights, square):
    """Weights (groups, sums, inputs) on a grid of 255 codes a sum, its largest weight on the last
    one, with the least change of weights @ inputs that rounding one input after the other finds.

    With square = U D U', U upper triangular with ones on its diagonal, the change is the sum over
    inputs k of D[k] (e[k] + sum over j < k of e[j] U[j, k]) ** 2, e the errors: what those before
    it have left is added to a weight, and the sum is rounded.

    Args:
        weights: float.
        square: (groups, inputs, inputs): mean products of the inputs.
    """
    square = np.array(square, np.float64)
    diagonal = np.einsum("gii->gi", square)  # a view
    diagonal += np.maximum(_DAMPING * diagonal.mean(-1, keepdims=True), 1e-12)
    order = np.argsort(diagonal, axis=-1, kind="stable")  # what counts most first, but backwards:
    square = np.take_along_axis(square, order[:, :, None], 1)
    square = np.take_along_axis(square, order[:, None, :], 2)
    lower = np.linalg.cholesky(square)
    upper = lower[:, ::-1, ::-1]
    upper = (upper / np.einsum("gii->gi", upper)[:, None, :]).astype(np.float32)
    order = order[:, ::-1]

    # inputs first: (groups, inputs, sums)
    weights = np.take_along_axis(weights, order[:, None, :], 2).swapaxes(1, 2)
    step = np.abs(weights).max(1) / np.float32(_CODES)
    step[step == 0] = 1.0
    largest = np.abs(weights).argmax(1)
    last = np.sign(np.take_along_axis(weights, largest[:, None], 1))[:, 0] * _CODES
    errors = np.zeros(weights.shape, np.float32)
    for k in range(weights.shape[1]):
        wanted = weights[:, k] + (upper[:, None, :k, k] @ errors[:, :k])[:, 0]
        codes = np.clip(np.rint(wanted / step), -_CODES, _CODES)
        codes = np.where(largest == k, last, codes)  # which keeps the grid where it is
        errors[:, k] = weights[:, k] - codes * step
    found = np.empty(weights.shape, np.float32)
    np.put_along_axis(found, order[:, :, None], weights - errors, 1)
    return found.swapaxes(1, 2)
