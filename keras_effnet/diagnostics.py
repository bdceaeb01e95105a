"""Detects common pitfalls in a model and in one of its batches.

docs/common-pitfalls.md lists them, with the discussions in which they were reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.image_preprocessing import parse_layer_name
from keras_effnet.labels import label_map


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
        model: a classifier or a network without one; new, loaded or partly frozen.
        batch: images (batch, height, width, channels) as they will be given to the model.
        labels: their classes, whole numbers (batch,) or one-hot (batch, classes).
        class_names: the names of the classes, in order.

    >>> import keras_effnet
    >>> model = keras_effnet.create_model("efficientnetv2-b0", input_shape=(32, 32, 3), classes=2)
    >>> [finding.check for finding in check_model(model, np.random.rand(2, 32, 32, 3))]
    ['scaled-twice']
    """
    findings = [*_layers(model), *_head(model, labels, class_names)]
    if batch is not None:
        findings += _batch(model, np.asarray(batch))
    return findings


def _flat_layers(model, frozen=False):
    """(layer, whether it or a model around it is frozen) for every layer of nested models."""
    for layer in model.layers:
        layer_frozen = frozen or not layer.trainable
        if hasattr(layer, "layers"):
            yield from _flat_layers(layer, layer_frozen)
        else:
            yield layer, layer_frozen


def _kind(layer):
    return type(layer).__name__


def _normalization_layers(model):
    kinds = ("Normalization", "Rescaling")
    return [layer.name for layer, _ in _flat_layers(model) if _kind(layer) in kinds]


def _layers(model):
    names = _normalization_layers(model)
    if len(names) > 1:
        yield Finding(
            "normalised-twice",
            f"{model.name} has {len(names)} layers that scale pixels in sequence: "
            f"{', '.join(names)}. keras_effnet's models normalize pixels themselves: remove yours, "
            "or build with include_preprocessing=False",
        )
    frozen_convolutions = 0
    training_batch_norms = []
    after_frozen = False
    for layer, frozen in _flat_layers(model):
        if "Conv2D" in _kind(layer):
            after_frozen = frozen
            frozen_convolutions += frozen
        elif "BatchNormalization" in _kind(layer) and after_frozen and not frozen:
            training_batch_norms.append(layer.name)
    if training_batch_norms:
        yield Finding(
            "batch-norm-trains-while-frozen",
            f"{frozen_convolutions} convolutions are frozen, but {len(training_batch_norms)} batch "
            f"norms behind them train ({training_batch_norms[0]}, ...): their statistics drift "
            "from those that the frozen weights expect. Use keras_effnet.freeze(model, ...), or "
            "set their trainable to False too",
        )
    last = model.layers[-1]
    while hasattr(last, "layers"):
        last = last.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    dtype = getattr(last, "compute_dtype", "float32")
    if dtype in ("float16", "bfloat16") and activation in ("softmax", "sigmoid"):
        yield Finding(
            "half-precision-classifier",
            f"{last.name} computes its {activation} in {dtype}, which rounds small "
            'probabilities to 0 and can make the loss infinite: set that layer\'s dtype="float32"',
        )


def _head(model, labels, class_names):
    if len(model.output_shape) != 2:
        return
    classes = model.output_shape[-1]
    if class_names is not None and len(class_names) != classes:
        yield Finding(
            "class-count",
            f"{model.name} has {classes} classes, but {len(class_names)} names were given."
            + _mapping_hint(classes, len(class_names)),
        )
    if labels is None:
        return
    labels = np.asarray(labels)
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            yield Finding(
                "class-count",
                f"{model.name} has {classes} classes, but the labels have {labels.shape[1]}."
                + _mapping_hint(classes, labels.shape[1]),
            )
        return
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        one_based = labels.min() >= 1 and labels.max() == classes
        yield Finding(
            "class-count",
            f"labels run from {labels.min()} to {labels.max()}, but {model.name} has {classes} "
            f"classes (0 to {classes - 1})."
            + (" They seem to start at 1: subtract 1." if one_based else "")
            + _mapping_hint(classes, int(labels.max()) + 1),
        )


def _mapping_hint(classes, given):
    if given <= 1000 and label_map(classes) is not None:
        return f" keras_effnet.label_map({classes}) finds ImageNet's 1,000 classes among them."
    return ""


def _batch(model, batch):
    if batch.ndim != 4:
        yield Finding(
            "shape",
            f"the batch has shape {batch.shape}: give (batch, height, width, channels); one image "
            "is a batch of 1: image[None]",
        )
        return
    expected = tuple(model.input_shape[1:])
    if any(e is not None and e != given for e, given in zip(expected, batch.shape[1:])):
        yield Finding(
            "shape",
            f"the batch is {batch.shape[1:]}, but {model.name} takes {expected}: prepare images "
            "with keras_effnet.preprocess, or change the model with "
            "keras_effnet.change_image_size",
        )
    yield from _size(model, batch)
    if not np.issubdtype(batch.dtype, np.number):
        yield Finding("range", f"the batch is {batch.dtype}: give numbers in [0, 255]")
        return
    if not np.all(np.isfinite(batch)):
        yield Finding("range", "the batch has values that are not finite")
        return
    yield from _range(model, float(batch.min()), float(batch.max()))


def _size(model, batch):
    input_spec = next(
        filter(None, (parse_layer_name(layer.name) for layer, _ in _flat_layers(model))), None
    )
    if input_spec is not None and {batch.shape[1], batch.shape[2]} != {input_spec.image_size}:
        size = input_spec.image_size
        yield Finding(
            "evaluation-size",
            f"the batch is {batch.shape[1]} x {batch.shape[2]} pixels, but {model.name} was "
            f"evaluated at {size} x {size}. Prepare images with keras_effnet.preprocess, and "
            f"change a model of another size with keras_effnet.change_image_size(model, {size})",
        )


def _range(model, low, high):
    normalizes = bool(_normalization_layers(model))
    values = f"the batch's values run from {low:.3g} to {high:.3g}"
    if normalizes and low >= 0 and high <= 1:
        yield Finding(
            "scaled-twice",
            f"{values}, as if divided by 255 already, but {model.name} normalizes pixels itself: "
            "give RGB in [0, 255]",
        )
    elif normalizes and low < 0:
        yield Finding(
            "scaled-twice",
            f"{values}, as if normalized already, but {model.name} normalizes pixels itself: give "
            "RGB in [0, 255], or build with include_preprocessing=False",
        )
    elif high > 255:
        yield Finding("range", f"{values}: give RGB in [0, 255]; divide images of 16 bits by 257")
    elif not normalizes and high > 20:
        yield Finding(
            "not-normalised",
            f"{values}, as raw pixels do, but {model.name} does not normalize them: build with "
            "include_preprocessing=True, or subtract the mean and divide by the standard deviation "
            "that its weights expect",
        )
