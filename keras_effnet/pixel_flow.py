"""Follows the pixels of a batch through a model's layers, up to the first convolutions.

A layer whose effect on pixels is unknown, e.g. ``Lambda``, is called with black and white images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from keras_effnet.image_preprocessing import parse_layer_name
from keras_effnet.model_graph import (
    call_node,
    flat,
    flat_layers,
    graph_of,
    inference_layers,
    inner_layers,
    interpret,
)

# The width of the values that a network is trained on: [0, 1], [-1, 1], or divided by the standard
# deviation of ImageNet's channels (4.5). Constants outside of these bounds are mistakes.
NARROWEST, WIDEST = 0.2, 25.0


@dataclass(frozen=True)
class Pixels:
    """The pixels at one place of a model, up to the first convolution."""

    sources: frozenset = frozenset()  # indices of the model's inputs
    scalings: tuple = ()  # the names of the layers that scale
    scale: float | None = 1.0  # their product; None: unknown
    resized: bool = False
    size: int | None = None  # of the preprocessing that the model states
    convolved: bool = False
    convolution: object = None  # the layer directly before, if it is a convolution


@dataclass
class Flow:
    """What is known about the layers of a model."""

    frozen: dict  # {id(layer): whether it is frozen}
    entries: list = field(default_factory=list)  # the pixels that reach the first convolutions
    batch_norms: list = field(default_factory=list)  # that train behind a frozen convolution
    frozen_convolutions: set = field(default_factory=set)

    def visit(self, layer, given, node):
        """The pixels behind a layer; records what it finds (see ``model_graph.interpret``)."""
        pixels = _joined(given)
        kind = kind_of(layer)
        if _is_convolution(layer):
            if not pixels.convolved:
                self.entries.append(pixels)
            if self.frozen.get(id(layer)):
                self.frozen_convolutions.add(id(layer))
            return replace(pixels, convolved=True, convolution=layer)
        if kind in BATCH_NORMS:
            behind_frozen = self.frozen.get(id(pixels.convolution), False)
            if behind_frozen and not self.frozen.get(id(layer), True):
                self.batch_norms.append(layer.name)
        pixels = replace(pixels, convolution=None)
        if kind in ("Rescaling", "Normalization"):
            outputs = flat(node.output_tensors) if node is not None else []
            images = all(len(tensor.shape) == 4 for tensor in outputs)
            if pixels.convolved and images:  # for another network behind: nothing is known
                self.entries = [replace(p, scale=None) for p in self.entries]
            names = (*pixels.scalings, layer.name)
            return replace(pixels, scalings=names, scale=_times(pixels.scale, _factor(layer)))
        spec = parse_layer_name(layer.name)
        if spec is not None and not pixels.convolved:
            return replace(pixels, size=spec.image_size)
        inner = _only_graph(layer)
        if inner is not None:
            return interpret(inner, [pixels] * len(inner.inputs), self.visit)[0] or pixels
        if kind.startswith(_RESIZES):
            return replace(pixels, resized=True)
        keeps = kind.startswith(_KEEPS) or (
            kind == "Activation" and activation_of(layer) == "linear"
        )
        return pixels if keeps else self._behind_unknown(layer, pixels, node)

    def _behind_unknown(self, layer, pixels, node):
        """The pixels behind a layer of unknown effect, which is measured if it has no weights."""
        factor = None
        if pixels.scale and not pixels.convolved and node is not None and not _weights(layer):
            factor = _measured(layer, node, 255 * pixels.scale)
        if factor is None:
            return replace(pixels, scale=None)
        if 0.99 < factor < 1.01:
            return pixels
        names = (*pixels.scalings, layer.name)
        return replace(pixels, scalings=names, scale=pixels.scale * factor)


BATCH_NORMS = ("BatchNormalization", "SyncBatchNormalization", "GroupedBatchNorm")
_RESIZES = ("Resizing", "CenterCrop", "Cropping", "RandomCrop")
_KEEPS = (
    *("InputLayer", "Identity", "Dropout", "SpatialDropout", "GaussianNoise", "Random", "Cast"),
    *(
        "Permute",
        "Reshape",
        "ZeroPadding",
        "Concatenate",
        "GetItem",
        "AutoContrast",
        "MixUp",
        "CutMix",
        "RandAug",
    ),
)


def trace_pixels(model):
    """The :class:`Flow` of a model; of a subclassed one, of the functional models in it."""
    flow = Flow({id(layer): frozen for layer, frozen in flat_layers(model)})
    graph = graph_of(model)
    if graph is not None:
        flow.frozen.update((id(layer), True) for layer in inference_layers(graph, BATCH_NORMS))
        start = [Pixels(frozenset([i])) for i in range(len(graph.inputs))]
        interpret(graph, start, flow.visit)
    elif any(kind.__name__ == "Sequential" for kind in type(model).__mro__):  # not built yet
        pixels = Pixels(frozenset([0]))
        for layer in model.layers:
            nested = graph_of(layer)
            if nested is None:
                pixels = flow.visit(layer, [pixels], None)
            else:
                pixels = interpret(nested, [pixels] * len(nested.inputs), flow.visit)[0] or pixels
    else:
        inner = _only_graph(model)
        if inner is not None:
            interpret(inner, [Pixels(frozenset([0]))] * len(inner.inputs), flow.visit)
    return flow


def _only_graph(layer):
    """The only functional model in a layer whose own order of layers is unknown, or None.

    Also None if other layers in it scale pixels.
    """
    if not hasattr(layer, "_flatten_layers"):  # an operation
        return None
    graphs, scales = [], False
    for inner in inner_layers(layer):
        graph = graph_of(inner) or _only_graph(inner)
        graphs += [graph] if graph is not None else []
        scales = scales or kind_of(inner) in ("Rescaling", "Normalization")
    images = [g for g in graphs if any(len(t.shape) == 4 for t in g.inputs)]
    return images[0] if len(images) == 1 and not scales else None


def _joined(given):
    first = max(given, key=lambda pixels: len(pixels.scalings))
    return replace(
        first,
        sources=frozenset().union(*(pixels.sources for pixels in given)),
        scale=first.scale if len({pixels.scale for pixels in given}) == 1 else None,
        resized=any(pixels.resized for pixels in given),
        convolved=any(pixels.convolved for pixels in given),
    )


def kind_of(layer) -> str:
    """The name of a layer's class."""
    return type(layer).__name__


def _is_convolution(layer):
    return "Conv" in kind_of(layer) and hasattr(layer, "kernel_size")


def activation_of(layer) -> str:
    """The name of a layer's activation; "" without one."""
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _times(scale, factor):
    return None if scale is None or factor is None else scale * factor


def _weights(layer) -> list:
    """The weights of a layer; none of an operation, which is a layer in a functional model only."""
    return list(getattr(layer, "weights", None) or ())


def _measured(layer, node, white):
    """The factor by which a layer scales pixels from 0 to `white`; None if it is unknown."""
    tensors = flat(node.input_tensors)
    if len(tensors) != 1 or len(tensors[0].shape) != 4:
        return None
    shape = [n or 8 for n in tensors[0].shape]
    images = np.zeros((2, *shape[1:]), "float32")
    images[1] = white
    try:
        import keras

        ops = getattr(keras, "ops", None)  # none in Keras 2
        values = ops.convert_to_tensor(images, dtype=tensors[0].dtype) if ops else images
        (output,) = flat(call_node(layer, node, {id(tensors[0]): values}))
        output = ops.convert_to_numpy(output) if ops else output
        black, bright = np.asarray(output, "float64")
    except Exception:  # the layer's own code ran
        return None
    factor = float(np.mean(np.abs(bright - black))) / white
    return factor if math.isfinite(factor) and factor > 0 else None


def _factor(layer):
    """The factor by which a layer scales pixels, on average over the channels; None: unknown."""
    if kind_of(layer) == "Rescaling":
        factors = np.ravel(np.asarray(layer.scale, "float64"))
    elif getattr(layer, "variance", None) is None:
        return None
    else:
        deviation = np.ravel(np.sqrt(np.asarray(layer.variance, "float64")))
        factors = deviation if layer.invert else 1 / np.maximum(deviation, 1e-7)
    factor = float(np.mean(np.abs(factors))) if factors.size else 0.0
    return factor if factor > 0 and math.isfinite(factor) else None
