"""Checks of a model's outputs, of the loss that it is compiled with, and of its labels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from keras_effnet.finding import Finding, to_array
from keras_effnet.labels import label_map
from keras_effnet.model_graph import graph_of, interpret, output_layers
from keras_effnet.pixel_flow import activation_of, kind_of

# Layers that leave class scores as they are.
_PASSES = ("Dropout", "Identity", "Reshape", "Flatten", "Cast")


def check_outputs(model):
    """Findings about the activations of a model's outputs."""
    yield from _repeated_softmax(model)
    graph = graph_of(model)
    if graph is None:
        return
    for layer, tensor in zip(output_layers(graph), graph.outputs):
        if layer is None:
            continue
        shape, activation = tuple(tensor.shape), _activation(layer)
        dtype = getattr(layer, "compute_dtype", "float32")
        if dtype in ("float16", "bfloat16") and activation in ("softmax", "sigmoid"):
            yield Finding(
                "half-precision-classifier",
                f"{layer.name} computes its {activation} in {dtype}, which rounds small "
                "probabilities to 0 and can make the loss infinite: set that layer's dtype=\"float"
                '32"',
            )
        if activation == "softmax" and len(shape) == 2 and shape[-1] == 1:
            yield Finding(
                "one-class-softmax",
                f"{layer.name} computes a softmax over one class, which is always 1, so it cannot "
                'learn: use activation "sigmoid" for one of two classes, or two classes',
            )


def _heads(model):
    """[(layer that computes the scores, shape)] of the outputs; none without a graph."""
    graph = graph_of(model)
    if graph is None:
        return []

    layers = interpret(graph, [None] * len(graph.inputs), _visit_head)
    pairs = zip(layers, graph.outputs)
    return [(layer, tuple(tensor.shape)) for layer, tensor in pairs if layer is not None]


def _visit_head(layer, given, node):
    return given[0] if _keeps_scores(layer) and given[0] is not None else layer


def output_activations(model) -> list[str]:
    """The activation of each output, e.g. "softmax" or "linear"; "" where it is unknown.

    Layers that leave class scores as they are, e.g. Dropout, are passed over.
    """
    graph = graph_of(model)
    if graph is None:
        return [""] * len(getattr(model, "outputs", None) or ())
    heads = interpret(graph, [None] * len(graph.inputs), _visit_head)
    return ["" if layer is None else _activation(layer) for layer in heads]


def _keeps_scores(layer):
    kind = kind_of(layer)
    return kind in _PASSES or (kind == "Activation" and _activation(layer) == "linear")


def _repeated_softmax(model):
    """Findings about a softmax of values that are already those of a softmax."""
    graph = graph_of(model)
    if graph is None:
        return
    found = []

    def visit(layer, given, node):
        """Whether the outputs are class scores."""
        softmax = _activation(layer) == "softmax"
        alone = kind_of(layer) in ("Softmax", "Activation")
        if softmax and alone and any(given):
            found.append(layer.name)
        return softmax or (_keeps_scores(layer) and all(given))

    interpret(graph, [False] * len(graph.inputs), visit)
    for name in found[:1]:
        yield Finding(
            "repeated-softmax",
            f"{name} computes a softmax of the scores of a softmax, which makes all classes almost "
            "equal: remove one of them",
        )


def check_losses(model, labels):
    """Findings about the losses of a compiled model: its activations and labels must fit them."""
    heads = _heads(model)
    losses = _per_output(model, getattr(model, "loss", None), len(heads))
    targets = _per_output(model, labels, len(heads))
    for (layer, shape), loss, given in zip(heads, losses, targets):
        kind, from_logits = _loss_of(loss)
        if kind is None or shape[-1] is None:
            continue
        yield from _loss(layer, shape, kind, from_logits)
        array = to_array(given)
        if array is not None and array.dtype.kind in "biuf" and len(shape) == 2:
            yield from _targets(layer, shape, kind, array)


def _per_output(model, given, count):
    """[value] for each output, of one value, a list, or a dict by output name."""
    if isinstance(given, dict):
        names = list(getattr(model, "output_names", None) or ())
        several = [given.get(name) for name in names]
        return (
            several if len(several) == count and any(n in given for n in names) else [None] * count
        )
    if count == 1:
        one = isinstance(given, (list, tuple)) and len(given) == 1
        number = one and np.isscalar(given[0]) and not isinstance(given[0], str)
        return [given[0] if one and not number else given]
    if isinstance(given, (list, tuple)) and len(given) == count:
        return list(given)
    return [given if isinstance(given, str) or callable(given) else None] * count


_LOSSES = {
    "sparsecategoricalcrossentropy": "sparse",
    "categoricalcrossentropy": "categorical",
    "categoricalfocalcrossentropy": "categorical",
    "binarycrossentropy": "binary",
    "binaryfocalcrossentropy": "binary",
}


def _loss_of(loss):
    """("sparse", "categorical" or "binary", from_logits) of a loss; (None, False) of another."""
    if isinstance(loss, str):
        name, from_logits = loss, False
    elif hasattr(loss, "get_config"):
        name = type(loss).__name__
        from_logits = bool(loss.get_config().get("from_logits", False))
    else:
        name, from_logits = getattr(loss, "__name__", ""), False
    return _LOSSES.get(name.replace("_", "").lower()), from_logits


def _loss(layer, shape, kind, from_logits):
    """Findings about the loss of one output and its activation."""
    if kind_of(layer) not in ("Dense", "Conv2D", "Activation", "Softmax"):
        return
    activation, units = _activation(layer), shape[-1]
    usual = "sigmoid" if kind == "binary" else "softmax"
    name = {"sparse": "sparse categorical", "categorical": "categorical"}.get(kind, "binary")
    if kind != "binary" and units == 1:
        if activation != "softmax":  # which is reported without a loss, too
            yield Finding(
                "loss-activation",
                f"{layer.name} has one output, but the loss is {name} crossentropy, which needs "
                "one for each class: use binary crossentropy, or two classes",
            )
    elif from_logits and activation in ("softmax", "sigmoid"):
        yield Finding(
            "loss-activation",
            f"{layer.name} computes a {activation}, and the loss has from_logits=True and computes "
            "another one: set from_logits=False, or remove the activation",
        )
    elif not from_logits and activation == "linear":
        yield Finding(
            "loss-activation",
            f"{layer.name} has no activation, but the loss ({name} crossentropy) expects "
            f'probabilities: set from_logits=True, or activation="{usual}"',
        )
    elif kind != "binary" and activation == "sigmoid":
        yield Finding(
            "loss-activation",
            f"{layer.name} computes a sigmoid, whose scores do not sum to 1, but the loss is "
            f"{name} crossentropy: use softmax for one label per image, or binary crossentropy for "
            "several",
        )


def _targets(layer, shape, kind, labels):
    """Findings about the shape of the labels that the loss of an output takes."""
    classes = shape[-1]
    one_hot = labels.ndim == 2 and labels.shape[1] == classes > 1
    indices = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    if kind == "sparse" and one_hot:
        yield Finding(
            "labels",
            f"the labels have shape {labels.shape}, as one-hot labels do, but the loss of "
            f"{layer.name} is sparse: give labels.argmax(1), or use categorical crossentropy",
        )
    elif kind == "categorical" and indices and classes > 1:
        yield Finding(
            "labels",
            f"the labels have shape {labels.shape}, but the loss of {layer.name} takes one-hot "
            f"labels (batch, {classes}): use sparse categorical crossentropy, or "
            f"keras.utils.to_categorical(labels, {classes})",
        )
    elif kind == "binary" and indices and classes > 1:
        yield Finding(
            "labels",
            f"the labels have shape {labels.shape}, but binary crossentropy compares them with "
            f"{classes} outputs: give (batch, {classes}), or use sparse categorical crossentropy",
        )


def check_labels(model, labels, class_names):
    """Findings about labels and class names of any form."""
    heads = _heads(model)
    targets = _per_output(model, labels, len(heads))
    losses = _per_output(model, getattr(model, "loss", None), len(heads))
    if len(heads) == 1:
        yield from _head(model.name, *heads[0], losses[0], targets[0], class_names)
        return
    for (layer, shape), loss, given in zip(heads, losses, targets):
        if np.ndim(to_array(given)) > 0:
            name = f"{model.name}'s output {layer.name}"
            yield from _head(name, layer, shape, loss, given, None)


def _activation(layer):
    return "softmax" if kind_of(layer) == "Softmax" else activation_of(layer)


def _has_class_scores(layer, classes, loss):
    """Whether a layer's outputs are scores of classes, and not features, e.g. an embedding.

    Its activation or the loss say so; without both, a classifier has weights for each class.
    """
    activation = _activation(layer)
    if activation in ("softmax", "sigmoid", "hard_sigmoid") or _loss_of(loss)[0] is not None:
        return True
    shapes = [weight.shape for weight in getattr(layer, "weights", None) or ()]
    projects = any(len(shape) >= 2 and shape[-1] == classes for shape in shapes)
    return loss is None and activation in ("linear", "") and projects


def _head(name, layer, shape, loss, labels, class_names):
    """Findings about the labels of one output."""
    if len(shape) != 2 or shape[-1] is None:
        return
    classes = shape[-1]
    # one sigmoid or one logit is the score of the second of two classes
    accepted = {1, 2} if classes == 1 else {classes}
    if class_names is not None and not isinstance(class_names, Iterable):
        yield Finding("class-count", f"class_names {class_names!r} is not a list of names")
    elif class_names is not None:
        given = len(list(class_names))
        if given not in accepted:
            yield Finding(
                "class-count",
                f"{name} has {classes} classes, but {given} names were given."
                + _mapping_hint(classes, given),
            )
    labels = to_array(labels)
    if labels is None or labels.size == 0:
        return
    if labels.dtype.kind not in "biuf":
        yield Finding(
            "labels",
            f"the labels are {labels.dtype}, not numbers of one shape: give the index of each "
            f"image's class, from 0 to {max(accepted) - 1}",
        )
        return
    if labels.ndim == 2 and labels.shape[1] != 1:
        if labels.shape[1] != classes:
            yield Finding(
                "class-count",
                f"{name} has {classes} classes, but the labels have {labels.shape[1]}."
                + _mapping_hint(classes, labels.shape[1]),
            )
        return
    if labels.ndim > 2:
        yield Finding(
            "labels",
            f"the labels have shape {labels.shape}: give (batch,) or (batch, {classes})",
        )
        return
    if not _has_class_scores(layer, classes, loss):
        return
    if classes == 1 and activation_of(layer) not in ("sigmoid", "hard_sigmoid"):
        return  # may be regression
    low, high = labels.min(), labels.max()
    if not (math.isfinite(low) and math.isfinite(high)):
        yield Finding("labels", f"labels run from {low} to {high}: some are not finite numbers")
        return
    last = max(accepted) - 1
    if low < 0 or high > last:
        yield Finding(
            "class-count",
            f"labels run from {low} to {high}, but {name} has {last + 1} classes (0 to {last})."
            + (" They seem to start at 1: subtract 1." if low >= 1 and high == last + 1 else "")
            + _mapping_hint(classes, int(high) + 1),
        )


def _mapping_hint(classes, given):
    if given <= 1000 and label_map(classes) is not None:
        return f" keras_effnet.label_map({classes}) finds ImageNet's 1,000 classes among them."
    return ""
