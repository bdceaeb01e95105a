"""Follows the pixels of a batch through a model's layers, up to the first convolutions.

Nothing is assumed about layers whose effect on pixels is unknown, e.g. ``Lambda``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from keras_effnet.image_preprocessing import parse_layer_name
from keras_effnet.model_graph import flat_layers, graph_of, inner_layers, interpret


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

    def visit(self, layer, given, outputs):
        """The pixels behind a layer; records what it finds (see ``model_graph.interpret``)."""
        pixels = _joined(given)
        kind = kind_of(layer)
        if _is_convolution(layer):
            if not pixels.convolved:
                self.entries.append(pixels)
            if self.frozen.get(id(layer)):
                self.frozen_convolutions.add(id(layer))
            return replace(pixels, convolved=True, convolution=layer)
        if kind in ("BatchNormalization", "SyncBatchNormalization", "GroupedBatchNorm"):
            behind_frozen = self.frozen.get(id(pixels.convolution), False)
            if behind_frozen and not self.frozen.get(id(layer), True):
                self.batch_norms.append(layer.name)
        pixels = replace(pixels, convolution=None)
        if kind in ("Rescaling", "Normalization"):
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
        return pixels if keeps else replace(pixels, scale=None)


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
        start = [Pixels(frozenset([i])) for i in range(len(graph.inputs))]
        interpret(graph, start, flow.visit)
    elif any(kind.__name__ == "Sequential" for kind in type(model).__mro__):  # not built yet
        pixels = Pixels(frozenset([0]))
        for layer in model.layers:
            nested = graph_of(layer)
            if nested is None:
                pixels = flow.visit(layer, [pixels], [])
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
