"""Detects common pitfalls in a model and in one of its batches.

docs/common-pitfalls.md lists them, with the discussions in which they were reported. A finding is
reported only if the layers prove it: nothing is reported about an order of layers that is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.labels import label_map
from keras_effnet.model_graph import graph_of, output_layers, require_model
from keras_effnet.pixel_flow import activation_of, kind_of, trace_pixels

# The width of the values that a network is trained on: [0, 1], [-1, 1], or divided by the standard
# deviation of ImageNet's channels (4.5). Constants outside of these bounds are mistakes.
_NARROWEST, _WIDEST = 0.2, 25.0


@dataclass(frozen=True)
class Finding:
    """A probable mistake, and how to fix it."""

    check: str  # the name of the check, e.g. "scaled-twice"
    message: str

    def __str__(self):
        return f"{self.check}: {self.message}"


def check_model(
    model, batch=None, *, labels=None, class_names: Sequence[str] | None = None
) -> list[Finding]:
    """Common pitfalls found in a ``keras.Model`` and its data; empty if there are none.

    Args:
        model: any ``keras.Model``: with or without a classifier, new, loaded or partly frozen, with
            any number of inputs. Of a subclassed model less is known than of a functional one.
        batch: images (batch, height, width, channels) as they will be given to the model; for
            several inputs a list, or a dict by input name.
        labels: their classes: whole numbers (batch,) or (batch, 1), or one-hot or several labels
            per image (batch, classes); for several outputs a list, or a dict by output name.
        class_names: the names of the classes, in order.

    Raises ``ValueError`` for an object that is not a ``keras.Model``, and nothing else.

    >>> import keras_effnet
    >>> model = keras_effnet.create_model("efficientnetv2-b0", input_shape=(32, 32, 3), classes=2)
    >>> [finding.check for finding in check_model(model, np.random.rand(2, 32, 32, 3))]
    ['scaled-twice']
    """
    require_model(model)
    flow = trace_pixels(model)
    findings = [*_scaled_twice(model, flow), *_batch_norms(flow), *_outputs(model)]
    findings += _labels(model, labels, class_names)
    if batch is not None:
        findings += _batches(model, flow, batch, bool(findings))
    return findings


def _scaled_twice(model, flow):
    for pixels in flow.entries:
        unknown = pixels.scale is None or len(pixels.scalings) < 2
        if not unknown and 255 * pixels.scale < _NARROWEST:
            yield Finding(
                "normalised-twice",
                f"{model.name} has {len(pixels.scalings)} layers that scale pixels in sequence: "
                f"{', '.join(pixels.scalings)}. keras_effnet's models normalize pixels "
                "themselves: remove yours, or build with include_preprocessing=False",
            )
            return


def _batch_norms(flow):
    names = list(dict.fromkeys(flow.batch_norms))
    if names:
        yield Finding(
            "batch-norm-trains-while-frozen",
            f"{len(flow.frozen_convolutions)} convolutions are frozen, but {len(names)} batch "
            f"norms behind them train ({names[0]}, ...): their statistics drift "
            "from those that the frozen weights expect. Use keras_effnet.freeze(model, ...), or "
            "set their trainable to False too",
        )


# --- outputs and labels --------------------------------------------------------------------------


def _outputs(model):
    for layer, shape in _heads(model):
        activation = "softmax" if kind_of(layer) == "Softmax" else activation_of(layer)
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
    """[(layer, shape)] of the outputs; without a graph, the last layer of a subclassed model."""
    graph = graph_of(model)
    if graph is None:
        return []
    pairs = zip(output_layers(graph), graph.outputs)
    return [(layer, tuple(tensor.shape)) for layer, tensor in pairs if layer is not None]


def _labels(model, labels, class_names):
    heads = _heads(model)
    names = list(getattr(model, "output_names", None) or ())
    if len(heads) == 1:
        one = labels
        if isinstance(one, dict) and len(one) == 1:
            (one,) = one.values()
        yield from _head(model.name, *heads[0], one, class_names)
        return
    if isinstance(labels, dict):
        labels = [labels.get(name) for name in names]
    if isinstance(labels, (list, tuple)) and len(labels) == len(heads):
        for (layer, shape), given in zip(heads, labels):
            if np.ndim(_array(given)) > 0:
                yield from _head(f"{model.name}'s output {layer.name}", layer, shape, given, None)


def _head(name, layer, shape, labels, class_names):
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
    labels = _array(labels)
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
    if classes == 1 and activation_of(layer) not in ("sigmoid", "hard_sigmoid"):
        return  # may be regression
    low, high = labels.min(), labels.max()
    last = max(accepted) - 1
    if low < 0 or high > last:
        yield Finding(
            "class-count",
            f"labels run from {low} to {high}, but {name} has {last + 1} classes (0 to {last})."
            + (" They seem to start at 1: subtract 1." if low >= 1 and high == last + 1 else "")
            + (_mapping_hint(classes, int(high) + 1) if math.isfinite(high) else ""),
        )


def _mapping_hint(classes, given):
    if given <= 1000 and label_map(classes) is not None:
        return f" keras_effnet.label_map({classes}) finds ImageNet's 1,000 classes among them."
    return ""


def _array(values):
    """A NumPy array of anything; of dtype object if it is not rectangular or not data."""
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return np.array([None])
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # bfloat16
        return array.astype("float32")
    return array


# --- batches -------------------------------------------------------------------------------------


def _batches(model, flow, batch, found):
    """Findings about the batch of every input."""
    graph = graph_of(model)
    tensors = list(graph.inputs) if graph is not None else [None]
    names = [str(getattr(tensor, "name", "")).split(":")[0] for tensor in tensors]
    if isinstance(batch, dict):
        missing = [name for name in names if name not in batch]
        if missing and (len(batch) != 1 or len(tensors) != 1):
            yield Finding(
                "shape", f"the batch lacks the input {missing[0]!r} of {model.name}: give {names}"
            )
            return
        batch = list(batch.values()) if missing else [batch[name] for name in names]
    several = len(tensors) > 1
    if several and not (isinstance(batch, (list, tuple)) and len(batch) == len(tensors)):
        yield Finding(
            "shape",
            f"{model.name} has {len(tensors)} inputs ({', '.join(names)}): give a list of "
            f"{len(tensors)} arrays, or a dict by these names",
        )
        return
    if not several:
        only = isinstance(batch, (list, tuple)) and len(batch) == 1 and np.ndim(batch[0]) != 3
        batch = batch if only else [batch]
    for i, (tensor, given) in enumerate(zip(tensors, batch)):
        shape = (None,) * 4 if tensor is None else tuple(tensor.shape)
        entries = [pixels for pixels in flow.entries if i in pixels.sources]
        yield from _batch(model, shape, entries, _array(given), found)


def _batch(model, expected, entries, batch, found):
    if batch is None:
        yield Finding("shape", f"the batch of one input of {model.name} is None: give an array")
        return
    if batch.dtype.kind not in "iuf" and (len(expected) == 4 or batch.dtype.kind == "O"):
        yield Finding(
            "range",
            f"the batch is {batch.dtype}, not an array of numbers: give numbers in [0, 255]",
        )
        return
    if batch.ndim != len(expected):
        how = "(batch, height, width, channels)" if len(expected) == 4 else str(expected)
        hint = "; one image is a batch of 1: image[None]" if batch.ndim == 3 else ""
        yield Finding("shape", f"the batch has shape {batch.shape}: give {how}{hint}")
        return
    if batch.size == 0:
        yield Finding("shape", f"the batch has shape {batch.shape}: it is empty")
        return
    if any(e is not None and e != given for e, given in zip(expected[1:], batch.shape[1:])):
        yield Finding(
            "shape",
            f"the batch is {batch.shape[1:]}, but {model.name} takes {expected[1:]}: prepare "
            "images with keras_effnet.preprocess, or change the model with "
            "keras_effnet.change_image_size",
        )
    if batch.ndim != 4 or not entries:
        return
    yield from _size(model, expected, entries, batch)
    if not np.all(np.isfinite(batch)):
        yield Finding("range", "the batch has values that are not finite")
    elif not found:
        yield from _range(model, entries, float(batch.min()), float(batch.max()))


def _size(model, expected, entries, batch):
    sizes = {pixels.size for pixels in entries if not pixels.resized} - {None}
    channels_first = expected[1] in (1, 3) and expected[3] not in (1, 3)
    height, width = batch.shape[2:] if channels_first else batch.shape[1:3]
    fixed = expected[2:] if channels_first else expected[1:3]
    if not sizes or {height, width} in [{size} for size in sizes]:
        return
    if fixed == (height, width) and height != width:
        return  # no evaluation is stored for images that are not square
    size = min(sizes)
    yield Finding(
        "evaluation-size",
        f"the batch is {height} x {width} pixels, but {model.name} was "
        f"evaluated at {size} x {size}. Prepare images with keras_effnet.preprocess, and "
        f"change a model of another size with keras_effnet.change_image_size(model, {size})",
    )


def _range(model, entries, low, high):
    values = f"the batch's values run from {low:.3g} to {high:.3g}"
    for pixels in entries:
        if pixels.scale is None:
            continue
        narrow = min(2.0, high - low) * pixels.scale < _NARROWEST
        if low < 0 and narrow:
            yield Finding(
                "scaled-twice",
                f"{values}, as if normalized already, but {model.name} normalizes pixels itself: "
                "give RGB in [0, 255], or build with include_preprocessing=False",
            )
        elif low >= 0 and high <= 1 and pixels.scale < _NARROWEST:
            yield Finding(
                "scaled-twice",
                f"{values}, as if divided by 255 already, but {model.name} normalizes pixels "
                "itself: give RGB in [0, 255]",
            )
        elif high > 255 and not 65535 * pixels.scale <= _WIDEST:
            yield Finding(
                "range", f"{values}: give RGB in [0, 255]; divide images of 16 bits by 257"
            )
        elif 20 < high <= 255 and 255 * pixels.scale > _WIDEST and pixels.scalings:
            yield Finding(
                "range",
                f"{values}, as raw pixels do, but {model.name} scales pixels by "
                f"{pixels.scale:.3g}: it seems to expect [0, 1]; divide the images by 255",
            )
        elif 20 < high <= 255 and 255 * pixels.scale > _WIDEST:
            yield Finding(
                "not-normalised",
                f"{values}, as raw pixels do, but {model.name} does not normalize them: build "
                "with include_preprocessing=True, or subtract the mean and divide by the standard "
                "deviation that its weights expect",
            )
        else:
            continue
        return
