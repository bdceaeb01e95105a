"""Cross-layer equalization: rescales channels so that all of a tensor have the same absolute
maximum. The function of the float network does not change.

With one scale per tensor, a channel with small values would get few of the 256 quantized values.
The layer that writes channel c multiplies it by s_c, the layer that reads it divides by s_c. This
is free between two linear ops, including residual streams and the products of squeeze-excite. A
swish in between needs one more multiplication: s * swish(x) = z * sigmoid(z / s) with z = s * x.

Sources: Nagel et al. 2019 (arXiv 1906.04721), for networks with ReLU; Xiao et al. 2022 (arXiv
2211.10438), which moves the difficulty from activations to weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tflite.flatbuffer.graph import LINEAR, Graph, Swish, swishes
from tflite.quantization.equivalence import require_same_scores

# Ops whose output channel c is proportional to input channel c.
_POOLING = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
_HOMOGENEOUS = ("NONE", "RELU")  # fused activations that commute with a positive factor
_MIN_SCALE = 1e-3  # relative to the largest channel: limits the scaling of unused channels


@dataclass(frozen=True)
class Group:
    """Tensors whose channels can only be scaled together."""

    tensors: tuple[int, ...]
    swishes: tuple[Swish, ...]  # their sigmoids read z / s


def groups(graph: Graph, *, through_swish: Collection[str] = ()) -> list[Group]:
    """The :class:`Group`s of a network whose channels can be scaled without changing its function.

    Args:
        graph: a :class:`Graph`.
        through_swish: names of tensors before a swish that are scaled, too, at the cost of one
            multiplication each.
    """
    union = _Union()
    pinned = {graph.input, *graph.outputs}
    free = {}  # z -> its swish, if that can be scaled
    inside = {}  # id of an op of a swish -> the tensors that it joins
    for swish in swishes(graph):
        inside.update((id(op), ()) for op in swish.operations)
        pinned.update(op.output for op in swish.operations if op is not swish.product)
        if swish.factor is not None or graph.name(swish.z) in through_swish:
            free[swish.z] = swish
            inside[id(swish.product)] = (swish.z, swish.product.output)
        else:
            pinned.update((swish.z, swish.product.output))

    for op in graph.operations:
        if id(op) in inside:
            union.join(inside[id(op)])
            continue
        joined, fixed = _joined_and_fixed(graph, op)
        union.join(joined)
        pinned.update(fixed)

    pinned = {union.root(tensor) for tensor in pinned}
    members = {}
    for op in graph.operations:
        for tensor in op.outputs:
            members.setdefault(union.root(tensor), []).append(tensor)
    return [
        Group(tuple(tensors), tuple(free[t] for t in tensors if t in free))
        for root, tensors in members.items()
        if root not in pinned and len(graph.shape(tensors[0])) > 1
    ]


def equalize(
    float32_model: bytes,
    histograms: Mapping,
    *,
    strength: float = 0.5,
    through_swish: Collection[str] = (),
    images: np.ndarray | None = None,
) -> bytes:
    """Bytes of the float .tflite with equalized channels.

    Args:
        float32_model: bytes of a float .tflite.
        histograms: of this model, as ``calibration.collect_histograms`` returns them.
        strength: 1 gives every channel the same absolute maximum; 0.5 shares the inequality
            between activations and the weights that read them.
        through_swish: as in ``groups``.
        images: uint8 images that the scores are compared on; None leaves that to the caller.

    Raises:
        ConversionError: the scores change by more than 1e-4.
    """
    graph = Graph(float32_model)
    for group in groups(graph, through_swish=through_swish):
        scale = _scale(graph, group, histograms, strength)
        if scale is not None:
            apply_scale(graph, group, scale)
    equalized = graph.content()
    if images is not None:
        require_same_scores(float32_model, equalized, images, "equalization")
    return equalized


def scaled_tensors(float32_model: bytes, *, through_swish: Collection[str] = ()) -> set[str]:
    """Names of the tensors of a float .tflite that ``equalize`` scales."""
    graph = Graph(float32_model)
    return {
        graph.name(tensor)
        for group in groups(graph, through_swish=through_swish)
        for tensor in group.tensors
    }


def apply_scale(graph: Graph, group: Group, scale: np.ndarray) -> None:
    """Multiplies the channels of a group's tensors by `scale` (channels,), and divides by it in the
    ops that read them.
    """
    scale = np.asarray(scale, np.float32)
    tensors = set(group.tensors)
    for op in graph.operations:
        if op.name not in LINEAR:
            continue
        kernel = op.inputs[1]
        if op.inputs[0] in tensors:
            # The input channel is the kernel's last axis. A depthwise kernel may have several
            # outputs per channel, side by side.
            repeats = graph.shape(kernel)[-1] // len(scale)
            factor = np.repeat(scale, repeats) if op.name == "DEPTHWISE_CONV_2D" else scale
            if op.name == "FULLY_CONNECTED":
                factor = np.tile(scale, graph.shape(kernel)[-1] // len(scale))
            graph.set_constant(kernel, graph.constant(kernel) / factor)
        if op.output in tensors:
            value = graph.constant(kernel)
            axis = -1 if op.name == "DEPTHWISE_CONV_2D" else 0
            shape = [1] * value.ndim
            shape[axis] = len(scale)
            graph.set_constant(kernel, value * scale.reshape(shape))
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                graph.set_constant(op.inputs[2], graph.constant(op.inputs[2]) * scale)
    for swish in group.swishes:
        _divide_before_sigmoid(graph, swish, scale)


def _joined_and_fixed(graph, op):
    """(tensors that an op outside a swish joins into one group, tensors that it keeps unscaled)."""
    if op.name in LINEAR:
        constant = all(graph.is_constant(i) for i in op.inputs[1:] if i >= 0)
        joined, fixed = [], [] if constant else list(op.inputs)
    elif _keeps_channels(graph, op):
        joined, fixed = [i for i in op.inputs if not graph.is_constant(i)] + op.outputs, []
    elif op.name == "MUL" and (product := _gated_product(graph, op)):
        feature, gate = product
        joined, fixed = [feature, op.output], [gate]
    else:
        return [], [*op.inputs, *op.outputs]
    return joined, fixed if op.fused in _HOMOGENEOUS else [*fixed, op.output]


def _scale(graph, group, histograms, strength):
    """Factors of a group's channels, with geometric mean 1; None if they cannot be computed."""
    activations = weights = None  # relative absolute maximum of each channel
    for tensor in group.tensors:
        histogram = histograms.get(graph.name(tensor))
        if histogram is None or len(histogram.channel_high) != graph.shape(tensor)[-1]:
            continue
        maximum = np.maximum(np.abs(histogram.channel_low), np.abs(histogram.channel_high))
        activations = _relative_maximum(maximum, activations)
    for op in graph.operations:
        if op.name in LINEAR and op.inputs[0] in group.tensors:
            if activations is None:
                return None
            kernel = np.abs(graph.constant(op.inputs[1]))
            if op.name == "FULLY_CONNECTED":
                kernel = kernel.reshape(-1, len(activations))
            maximum = kernel.reshape(-1, kernel.shape[-1]).max(0)
            if len(maximum) != len(activations):
                return None  # a depthwise kernel with several outputs per channel
            weights = _relative_maximum(maximum, weights)
    if activations is None or weights is None:
        return None
    activations, weights = np.maximum(activations, _MIN_SCALE), np.maximum(weights, _MIN_SCALE)
    log = (1 - strength) * np.log(weights) - strength * np.log(activations)
    return np.exp(log - log.mean())


def _relative_maximum(maximum, previous):
    """A tensor's maxima, relative to its largest one, joined with those of other tensors."""
    relative = maximum.astype(np.float64)
    relative /= max(relative.max(), 1e-12)  # each tensor has its scale
    return relative if previous is None else np.maximum(previous, relative)


def _divide_before_sigmoid(graph, swish, scale):
    inverse = (1 / scale).reshape(1, 1, 1, -1)
    if swish.factor is not None:
        old = swish.factor.inputs[1]
        factor = graph.constant(old) * inverse
        if graph.shape(old) == factor.shape:
            graph.set_constant(old, factor)
        else:
            name = f"{graph.name(swish.z)}/factor"
            graph.rewire(swish.factor, old, graph.add_constant(name, factor))
        return
    name = graph.name(swish.z)
    factor = graph.add_constant(f"{name}/factor", inverse)
    unscaled = graph.add_tensor(f"{name}/unscaled", graph.shape(swish.z))
    options, kind = graph.options("MulOptions")
    graph.insert(swish.logistic, "MUL", (swish.z, factor), unscaled, options, kind)
    graph.rewire(swish.logistic, swish.z, unscaled)


def _keeps_channels(graph, op):
    """Whether output channel c is proportional to channel c of all inputs that are not constant."""
    if op.name == "MEAN":  # over the image only
        last = len(graph.shape(op.inputs[0])) - 1
        return not {last, -1} & set(graph.integers(op.inputs[1]).reshape(-1).tolist())
    if op.name in ("RESHAPE", "PAD"):
        return graph.shape(op.output)[-1] == graph.shape(op.inputs[0])[-1]
    if op.name == "ADD":
        shapes = {graph.shape(i) for i in op.inputs}
        return len(shapes) == 1 and not any(map(graph.is_constant, op.inputs))
    return op.name in _POOLING


def _gated_product(graph, op):
    """(feature, gate) of a squeeze-excite product; None for other products."""
    if any(map(graph.is_constant, op.inputs)):
        return None
    a, b = op.inputs
    for feature, gate in ((a, b), (b, a)):
        if graph.shape(gate)[1:3] == (1, 1) != graph.shape(feature)[1:3]:
            return feature, gate
    return None


class _Union:
    """Disjoint sets (union-find)."""

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
