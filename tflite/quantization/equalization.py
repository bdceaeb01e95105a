"""Changes to a float network that leave its answers as they are and make it easier to round.

``equalize`` gives the channels of a tensor the same reach: who writes channel c multiplies it by
s_c, who reads it divides by s_c, and with one scale a tensor no channel is left with a few of the
256 codes. Between two linear operations that is free, residual streams and squeeze-excite's
products included. A swish is in the way elsewhere; ``equalize`` passes it where it may, by
s * swish(x) = z * sigmoid(z / s) with z = s * x (one multiplication more).

Sources: cross-layer equalization, Nagel et al. 2019 (arXiv 1906.04721), which is for networks with
relu; migration of difficulty into the weights, Xiao et al. 2022 (arXiv 2211.10438).
"""

from dataclasses import dataclass

import numpy as np

from tflite.flatbuffer import rewrite, runner
from tflite.flatbuffer.graph import LINEAR, Network, Swish, swishes

TOLERANCE = 1e-4  # of the largest |score|, or of 1 where that is smaller

# Whose output's channel c hangs on the input's channel c alone, in proportion.
_PASSES = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
_VALID = 1  # padding's code
_POSITIVE = ("NONE", "RELU")  # activations inside of an operation that a scale passes


@dataclass(frozen=True)
class Group:
    """Tensors whose channels can only be scaled together."""

    tensors: "tuple[int, ...]"
    swishes: "tuple[Swish, ...]"  # whose sigmoid is to be fed z / s


def groups(network, *, through_swish=()):
    """The :class:`Group`s of a network whose channels can be scaled with the answers unchanged.

    Args:
        network: a :class:`Network`.
        through_swish: names of tensors before a swish that may be scaled, too, at the price of a
            multiplication each.
    """
    union = _Union()
    pinned = {network.input, network.output}
    free = {}  # z -> its swish, where that can be scaled
    inside = {}  # id of a swish's operations -> the tensors that they join
    for swish in swishes(network):
        inside.update((id(op), ()) for op in swish.operations)
        pinned.update(op.output for op in swish.operations if op is not swish.product)
        if swish.factor is not None or network.name(swish.z) in through_swish:
            free[swish.z] = swish
            inside[id(swish.product)] = (swish.z, swish.product.output)
        else:
            pinned.update((swish.z, swish.product.output))

    for op in network.operations:
        if id(op) in inside:
            union.join(inside[id(op)])
        elif op.name in LINEAR:
            if not all(network.is_constant(i) for i in op.inputs[1:] if i >= 0):
                pinned.update(op.inputs)
            if op.fused not in _POSITIVE:
                pinned.add(op.output)
        elif _passes(network, op):
            union.join([i for i in op.inputs if not network.is_constant(i)] + op.outputs)
            if op.fused not in _POSITIVE:
                pinned.add(op.output)
        elif op.name == "MUL" and _is_gate(network, op):
            feature, gate = _is_gate(network, op)
            union.join((feature, op.output))
            pinned.add(gate)
            if op.fused not in _POSITIVE:
                pinned.add(op.output)
        else:
            pinned.update([*op.inputs, *op.outputs])

    pinned = {union.root(tensor) for tensor in pinned}
    members = {}
    for op in network.operations:
        for tensor in op.outputs:
            members.setdefault(union.root(tensor), []).append(tensor)
    return [
        Group(tuple(tensors), tuple(free[t] for t in tensors if t in free))
        for root, tensors in members.items()
        if root not in pinned and len(network.shape(tensors[0])) > 1
    ]


def equalize(content, observed, *, strength=0.5, through_swish=(), images=None):
    """Bytes of the float .tflite with the channels of its groups brought to the same reach.

    Args:
        content: bytes of a float .tflite.
        observed: what ``calibration.collect_histograms`` saw of it.
        strength: 1 gives every channel the same reach, 0.5 shares the inequality between
            activations and the weights behind them.
        through_swish: as in ``groups``.
        images: uint8 images that the answers are compared on; None leaves it to the caller.

    Raises:
        ConversionError: the answers change by more than 1e-4 of the largest.
    """
    network = Network(content)
    for group in groups(network, through_swish=through_swish):
        scale = _scale(network, group, observed, strength)
        if scale is not None:
            apply_scale(network, group, scale)
    changed = network.content()
    if images is not None:
        require_same(content, changed, images, "equalization")
    return changed


def scaled(content, *, through_swish=()):
    """Names of the tensors that ``equalize`` scales in a float .tflite in bytes."""
    network = Network(content)
    found = groups(network, through_swish=through_swish)
    return {network.name(tensor) for group in found for tensor in group.tensors}


def apply_scale(network, group, scale):
    """Multiplies the channels of a group's tensors by `scale` (channels,) and divides where they
    are read.
    """
    scale = np.asarray(scale, np.float32)
    tensors = set(group.tensors)
    for op in network.operations:
        if op.name not in LINEAR:
            continue
        kernel = op.inputs[1]
        if op.inputs[0] in tensors:
            # the input's channel is the kernel's last axis; a depthwise kernel may have several
            # outputs a channel, side by side
            repeats = network.shape(kernel)[-1] // len(scale)
            factor = np.repeat(scale, repeats) if op.name == "DEPTHWISE_CONV_2D" else scale
            if op.name == "FULLY_CONNECTED":
                factor = np.tile(scale, network.shape(kernel)[-1] // len(scale))
            network.set_constant(kernel, network.constant(kernel) / factor)
        if op.output in tensors:
            value = network.constant(kernel)
            axis = -1 if op.name == "DEPTHWISE_CONV_2D" else 0
            shape = [1] * value.ndim
            shape[axis] = len(scale)
            network.set_constant(kernel, value * scale.reshape(shape))
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                network.set_constant(op.inputs[2], network.constant(op.inputs[2]) * scale)
    for swish in group.swishes:
        _feed_sigmoid(network, swish, scale)


def fold_normalization(content, *, border="constant", images=None):
    """Bytes of the float .tflite with its normalisation inside of the first convolution, which then
    takes pixels in [0, 255]; the same bytes for a network that begins in another way.

    pixel * a + b goes into kernel and bias. But zeros that a convolution pads with stood for the
    pixel -b / a, and now for black. So `border` "constant" joins a border of that pixel to the
    image; "subtract" leaves a subtraction of it in front, for hardware that pads with zeros alone;
    neither is needed where b is 0 or nothing is padded.

    Raises ``ConversionError`` where the answers on `images` (uint8) change by more than 1e-4.
    """
    network = Network(content)
    first = next((i for i, op in enumerate(network.operations) if op.name in LINEAR), None)
    if not first:
        return content
    steps, stem = network.operations[:first], network.operations[first]
    found = _scale_and_shift(network, steps)
    if found is None or stem.name != "CONV_2D" or stem.inputs[0] != steps[-1].output:
        return content
    readers = network.consumers()
    if any(len(readers[tensor]) > 1 for tensor in (network.input, *(s.output for s in steps))):
        return content  # the pixels go elsewhere, too
    factor, shift = found
    before, after = padding(network, stem)
    kernel = network.constant(stem.inputs[1]).astype(np.float64)
    zero = np.broadcast_to(-shift / factor, kernel.shape[-1:])  # the pixel that b made 0
    network.set_constant(stem.inputs[1], kernel * factor)
    if np.any(shift) and any(before + after) and border == "subtract":
        value = network.add_constant("normalization/zero", zero.reshape(1, 1, 1, -1))
        source = network.add_tensor("normalization/centered", network.shape(network.input))
        options, kind = network.options("SubOptions")
        network.insert(stem, "SUB", (network.input, value), source, options, kind)
    else:
        source = network.input
        bias = network.constant(stem.inputs[2]).astype(np.float64)
        bias += (kernel * np.broadcast_to(shift, zero.shape)).sum((1, 2, 3))
        network.set_constant(stem.inputs[2], bias)
        if np.any(shift) and any(before + after):
            source = _bordered(network, stem, zero, before, after)
            stem.raw.builtinOptions.padding = _VALID
    network.rewire(stem, steps[-1].output, source)
    network.remove(steps)
    changed = network.content()
    if images is not None:
        require_same(content, changed, images, "folding the normalisation")
    return changed


def _scale_and_shift(network, steps):
    """(a, b) of the operations that make pixel * a + b, one number or one a channel; None for
    others.
    """
    factor, shift, tensor = np.ones(1), np.zeros(1), network.input
    for op in steps:
        if op.name not in ("MUL", "SUB", "ADD") or op.fused != "NONE" or op.inputs[0] != tensor:
            return None
        if not network.is_constant(op.inputs[1]):
            return None
        value = network.constant(op.inputs[1]).astype(np.float64).reshape(-1)
        if op.name == "MUL":
            factor, shift = factor * value, shift * value
        else:
            shift = shift + (value if op.name == "ADD" else -value)
        tensor = op.output
    return factor, shift


def padding(network, conv):
    """((top, left), (bottom, right)): how many zeros a convolution pads with."""
    if conv.raw.builtinOptions.padding == _VALID:
        return (0, 0), (0, 0)
    _, *size, _ = network.shape(conv.inputs[0])
    _, *kernel, _ = network.shape(conv.inputs[1])
    strides = conv.raw.builtinOptions.strideH, conv.raw.builtinOptions.strideW
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides)]
    return tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)


def _bordered(network, before_op, pixel, before, after):
    """The tensor of the image with rows and columns of one pixel's value joined to it."""
    tensor = network.input
    for axis, (first, last) in enumerate(zip(before, after), start=1):
        shape = list(network.shape(tensor))
        if not first and not last:
            continue
        parts = [tensor]
        for count, place in ((first, 0), (last, None)):
            if count:
                edge = np.broadcast_to(
                    pixel, (1, *(count if i == axis else shape[i] for i in (1, 2)), 3)
                )
                name = f"normalization/border_{axis}_{'first' if place == 0 else 'last'}"
                parts.insert(len(parts) if place is None else 0, network.add_constant(name, edge))
        shape[axis] += first + last
        joined = network.add_tensor(f"normalization/bordered_{axis}", tuple(shape))
        options, kind = network.options("ConcatenationOptions")
        options.axis = axis
        network.insert(before_op, "CONCATENATION", parts, joined, options, kind)
        tensor = joined
    return tensor


def require_same(before, after, images, what):
    """Raises ``ConversionError`` unless two float .tflite give the same answers, to 1e-4, on uint8
    images.
    """
    want, got = (runner.scores(c, images) for c in (before, after))
    worst = np.abs(got - want).max() / max(1.0, np.abs(want).max())
    if not worst < TOLERANCE:
        raise rewrite.ConversionError(
            f"{what} changes the answers by {worst:.2g}; {TOLERANCE:g} is allowed"
        )


def _scale(network, group, observed, strength):
    """Factors of a group's channels, with a geometric mean of 1; None where there is nothing to
    scale by.
    """
    reach = weight = None
    for tensor in group.tensors:
        seen = observed.get(network.name(tensor))
        if seen is None or len(seen.channel_high) != network.shape(tensor)[-1]:
            continue
        each = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high)).astype(np.float64)
        each /= max(each.max(), 1e-12)  # every tensor has a scale of its own
        reach = each if reach is None else np.maximum(reach, each)
    for op in network.operations:
        if op.name in LINEAR and op.inputs[0] in group.tensors:
            if reach is None:
                return None
            kernel = np.abs(network.constant(op.inputs[1]))
            if op.name == "FULLY_CONNECTED":
                kernel = kernel.reshape(-1, len(reach))
            each = kernel.reshape(-1, kernel.shape[-1]).max(0).astype(np.float64)
            if len(each) != len(reach):
                return None  # a depthwise kernel with several outputs a channel
            each /= max(each.max(), 1e-12)
            weight = each if weight is None else np.maximum(weight, each)
    if reach is None or weight is None:
        return None
    floor = 1e-3  # a channel that is never used is not blown up beyond all measure
    reach, weight = np.maximum(reach, floor), np.maximum(weight, floor)
    log = (1 - strength) * np.log(weight) - strength * np.log(reach)
    return np.exp(log - log.mean())


def _feed_sigmoid(network, swish, scale):
    inverse = (1 / scale).reshape(1, 1, 1, -1)
    if swish.factor is not None:
        old = swish.factor.inputs[1]
        factor = network.constant(old) * inverse
        if network.shape(old) == factor.shape:
            network.set_constant(old, factor)
        else:
            name = f"{network.name(swish.z)}/factor"
            network.rewire(swish.factor, old, network.add_constant(name, factor))
        return
    name = network.name(swish.z)
    factor = network.add_constant(f"{name}/factor", inverse)
    unscaled = network.add_tensor(f"{name}/unscaled", network.shape(swish.z))
    options, kind = network.options("MulOptions")
    network.insert(swish.logistic, "MUL", (swish.z, factor), unscaled, options, kind)
    network.rewire(swish.logistic, swish.z, unscaled)


def _passes(network, op):
    if op.name == "MEAN":  # over the image, the channels stay
        last = len(network.shape(op.inputs[0])) - 1
        return not {last, -1} & set(network.integers(op.inputs[1]).reshape(-1).tolist())
    if op.name in ("RESHAPE", "PAD"):
        return network.shape(op.output)[-1] == network.shape(op.inputs[0])[-1]
    if op.name == "ADD":
        shapes = {network.shape(i) for i in op.inputs}
        return len(shapes) == 1 and not any(map(network.is_constant, op.inputs))
    return op.name in _PASSES


def _is_gate(network, op):
    """(feature, gate) of squeeze-excite's product, None for another."""
    if any(map(network.is_constant, op.inputs)):
        return None
    a, b = op.inputs
    for feature, gate in ((a, b), (b, a)):
        if network.shape(gate)[1:3] == (1, 1) != network.shape(feature)[1:3]:
            return feature, gate
    return None


class _Union:
    def __init__(self):
        self.parent = {}

    def root(self, item):
        while self.parent.get(item, item) != item:
            item = self.parent[item]
        return item

    def join(self, items):
        items = list(items)
        for item in items[1:]:
            self.parent[self.root(item)] = self.root(items[0])
