"""The usual misuses of a classifier, found in a model and one of its batches, and named.

Each check is of something that people lost days to (docs/misuses.md says whom and where).
"""

from dataclasses import dataclass

import numpy as np

from keras_effnet.image_preprocessing import parse
from keras_effnet.labels import label_map


@dataclass(frozen=True)
class Finding:
    """Something that is probably not meant, and the way out."""

    check: str  # a name to filter by, e.g. "scaled-twice"
    message: str

    def __str__(self):
        return f"{self.check}: {self.message}"


def check_model(model, batch=None, *, labels=None, class_names=None):
    """Looks for the usual misuses of a ``keras.Model``: a list of :class:`Finding`, empty if all
    seems well. Changes nothing.

    Args:
        model: a classifier or a headless network, fresh, loaded or being fine-tuned.
        batch: images (batch, height, width, channels) as the model will be given them.
        labels: their classes, whole numbers (batch,) or one-hot (batch, classes).
        class_names: what the classes are called, in order.

    >>> import keras_effnet
    >>> model = keras_effnet.create_model("efficientnetv2-b0", input_shape=(32, 32, 3), classes=2)
    >>> [finding.check for finding in check_model(model, np.random.rand(2, 32, 32, 3))]
    ['scaled-twice']
    """
    findings = [*_layers(model), *_head(model, labels, class_names)]
    if batch is not None:
        findings += _batch(model, np.asarray(batch))
    return findings


def _walk(model, frozen=False):
    """Every layer that is no model, and whether it or a model around it is frozen."""
    for layer in model.layers:
        still = frozen or not layer.trainable
        if hasattr(layer, "layers"):
            yield from _walk(layer, still)
        else:
            yield layer, still


def _kind(layer):
    return type(layer).__name__


def _normalises(model):
    return [
        layer.name for layer, _ in _walk(model) if _kind(layer) in ("Normalization", "Rescaling")
    ]


def _layers(model):
    names = _normalises(model)
    if len(names) > 1:
        yield Finding(
            "normalised-twice",
            f"{model.name} has {len(names)} layers that scale pixels, one after the other: "
            f"{', '.join(names)}. keras_effnet's models normalise by themselves: leave yours out, "
            "or build with include_preprocessing=False",
        )
    frozen = 0
    loose = []
    after_frozen = False
    for layer, still in _walk(model):
        if "Conv2D" in _kind(layer):
            after_frozen = still
            frozen += still
        elif "BatchNormalization" in _kind(layer) and after_frozen and not still:
            loose.append(layer.name)
    if loose:
        yield Finding(
            "batch-norm-trains-while-frozen",
            f"{frozen} convolutions are frozen and {len(loose)} batch norms behind them train "
            f"({loose[0]}, ...): their statistics move away from what the frozen weights expect. "
            "Use keras_effnet.freeze(model, ...), or set their trainable to False too",
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
            'probabilities to 0 and makes the loss infinite: give that layer dtype="float32"',
        )


def _head(model, labels, class_names):
    if len(model.output_shape) != 2:
        return
    classes = model.output_shape[-1]
    if class_names is not None and len(class_names) != classes:
        yield Finding(
            "class-count",
            f"{model.name} has {classes} classes and there are {len(class_names)} names."
            + _mapped(classes, len(class_names)),
        )
    if labels is None:
        return
    labels = np.asarray(labels)
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            yield Finding(
                "class-count",
                f"{model.name} has {classes} classes and the labels {labels.shape[1]}."
                + _mapped(classes, labels.shape[1]),
            )
        return
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        one_based = labels.min() >= 1 and labels.max() == classes
        yield Finding(
            "class-count",
            f"labels run from {labels.min()} to {labels.max()} and {model.name} has {classes} "
            f"classes (0 to {classes - 1})."
            + (" They seem to count from 1: subtract 1." if one_based else "")
            + _mapped(classes, int(labels.max()) + 1),
        )


def _mapped(classes, wanted):
    if wanted <= 1000 and label_map(classes) is not None:
        return (
            f" Of its {classes:,} classes keras_effnet.label_map({classes}) gives ImageNet's 1,000."
        )
    return ""


def _batch(model, batch):
    if batch.ndim != 4:
        yield Finding(
            "shape",
            f"the batch has shape {batch.shape}: give (batch, height, width, channels); one image "
            "is a batch of 1: image[None]",
        )
        return
    want = model.input_shape
    off = [w is not None and w != h for w, h in zip(want[1:], batch.shape[1:])]
    if any(off):
        yield Finding(
            "shape",
            f"the batch is {batch.shape[1:]} and {model.name} takes {tuple(want[1:])}: prepare "
            "images with keras_effnet.preprocess, or move the model with keras_effnet.change_image_size",
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
    input_spec = next(filter(None, (parse(layer.name) for layer, _ in _walk(model))), None)
    if input_spec is not None and {batch.shape[1], batch.shape[2]} != {input_spec.image_size}:
        size = input_spec.image_size
        yield Finding(
            "evaluation-size",
            f"the batch is {batch.shape[1]} x {batch.shape[2]} pixels, and {model.name} is meant "
            f"for {size} x {size}: its accuracy was measured there. Prepare images with "
            "keras_effnet.preprocess, and move a model of another size with "
            f"keras_effnet.change_image_size(model, {size})",
        )


def _range(model, low, high):
    normalises = bool(_normalises(model))
    seen = f"the batch's values run from {low:.3g} to {high:.3g}"
    if normalises and low >= 0 and high <= 1:
        yield Finding(
            "scaled-twice",
            f"{seen}, so they seem divided by 255 already, and {model.name} normalises pixels "
            "itself: give RGB in [0, 255]",
        )
    elif normalises and low < 0:
        yield Finding(
            "scaled-twice",
            f"{seen}, so they seem normalised already, and {model.name} normalises pixels "
            "itself: give RGB in [0, 255], or build with include_preprocessing=False",
        )
    elif high > 255:
        yield Finding(
            "range", f"{seen}: give RGB in [0, 255]; images of 16 bits are to be divided by 257"
        )
    elif not normalises and high > 20:
        yield Finding(
            "not-normalised",
            f"{seen}, which are raw pixels, and {model.name} does not normalise them: build with "
            "include_preprocessing=True, or subtract the mean and divide by the deviation of its "
            "weights",
        )
