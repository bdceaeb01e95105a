"""A classifier from a ``.keras`` file, a ``.tflite`` file or a variant's name: images to scores."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.evaluation.outcomes import ScoreKind
from keras_effnet.image_preprocessing import INTERPOLATIONS, Preprocessing
from keras_effnet.keras_file import load_keras_file
from keras_effnet.label_file import read_labels
from keras_effnet.labels import label_map
from keras_effnet.model_input import ImageInput, image_input
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_lookup import unknown_model
from keras_effnet.variants import NETWORKS

_TFLITE_BATCH, _KERAS_BATCH = 64, 32


@dataclass(frozen=True)
class InputFlags:
    """How images are prepared, where that differs from what the model states."""

    image_size: int | None = None  # pixels a side
    crop: float | None = None  # of the shorter side, in (0, 1]; 0: the whole image, stretched
    interpolation: str | None = None  # "bilinear" | "bicubic"


@dataclass(frozen=True, eq=False)
class ImageClassifier:
    """A classifier: uint8 images to scores.

    `scores` maps images prepared by ``image_input.prepare``, stacked to uint8 (batch, ...), to
    float32 (batch, classes). `kind_of` tells from a batch of scores what they are.
    """

    name: str  # of the model
    image_input: ImageInput
    classes: int  # one unit has two
    class_names: tuple[str, ...] | None
    batch: int  # images that are computed together
    scores: Callable[[np.ndarray], np.ndarray]
    kind_of: Callable[[np.ndarray], ScoreKind]


def open_classifier(
    model: str,
    weights: str | None = None,
    labels: str | None = None,
    flags: InputFlags = InputFlags(),
) -> ImageClassifier:
    """The :class:`ImageClassifier` of a ``.keras`` file, a ``.tflite`` file or a variant's name.

    Args:
        model: path or name.
        weights: for a name: a row of `effnet weights`, or a file.
        labels: file of class names. Default: ``labels.txt`` beside a ``.keras`` file; the metadata
            of a ``.tflite``, or ``NAME.tflite.labels.txt`` beside it.
        flags: override the preprocessing that the model states.

    Raises:
        ValueError: not such a file or name, not a classifier of one image, or flags that the model
            cannot follow.
    """
    if flags.interpolation not in (None, *INTERPOLATIONS):
        raise ValueError(unknown_name("interpolation", flags.interpolation, INTERPOLATIONS))
    if model.endswith(".tflite"):
        return _of_tflite(model, weights, labels, flags)
    if os.path.isfile(model) and not model.endswith(".keras"):
        raise ValueError(
            f"--model={model} is neither a .keras nor a .tflite file: give one, or --model=NAME "
            f"--weights={model}"
        )
    keras_model, names = open_model(model, weights, labels)
    name = os.path.basename(model) if os.path.isfile(model) else keras_model.name
    return replace(of_keras_model(keras_model, names, flags), name=name)


def of_keras_model(
    keras_model, class_names=None, flags: InputFlags = InputFlags()
) -> ImageClassifier:
    """The :class:`ImageClassifier` of a ``keras.Model``."""
    shape = getattr(keras_model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            f"{keras_model.name} is not a classifier: its output has shape {shape}; expected "
            "(batch, classes)"
        )
    stated = _with_flags(
        _keras_input(keras_model, flags), flags, is_fixed=_has_fixed_size(keras_model)
    )
    activation = _activation_of(keras_model)

    def scores(images):
        pixels = np.stack([stated.for_model(image) for image in images])
        missing = _KERAS_BATCH - len(pixels)
        if missing > 0:  # always the same shape: another one is compiled again
            pixels = np.concatenate([pixels, np.repeat(pixels[:1], missing, 0)])
        values = np.asarray(keras_model.predict_on_batch(pixels), np.float32)
        return values[: len(images)]

    return ImageClassifier(
        name=keras_model.name,
        image_input=stated,
        classes=max(2, shape[1]),
        class_names=class_names,
        batch=_KERAS_BATCH,
        scores=scores,
        kind_of=lambda values: _kind_of(values, activation),
    )


def _of_tflite(path, weights, labels, flags):
    from keras_effnet.litert import classifier, metadata

    if weights is not None:
        raise ValueError(f"--weights={weights} and --model={path}, which has weights: drop one")
    if not os.path.isfile(path):
        raise ValueError(f"--model={path} does not exist: give the path of a .tflite file")
    content = pathlib.Path(path).read_bytes()
    opened = classifier.open_classifier(content, path)
    is_unit = opened.classes == 1 and len(opened.outputs) == 1
    if not (opened.is_classifier or is_unit):
        shapes = [(1, *shape) for _, shape, _ in opened.outputs]
        raise ValueError(f"{path} is not a classifier: its outputs have shapes {shapes}")
    beside = f"{path}.labels.txt"
    if labels is not None or os.path.isfile(beside):
        names = read_labels(labels or beside)
    else:
        try:
            described = metadata.read(content)
        except ValueError:
            described = None  # of another format
        names = described.labels if described is not None else None
    stated = ImageInput(
        Preprocessing(opened.height, None, "bilinear"),
        opened.height,
        opened.width,
        opened.channels,
        channels_first=False,
    )
    if names is None and opened.classes not in (1000, 1001, 21843):
        raise ValueError(
            f"{path} has no class names: give --labels=FILE with the name of each of its "
            f"{max(2, opened.classes)} outputs, one a line, in their order"
        )
    activation = opened.output_activation
    scale = 0.0 if activation == "logits" else opened.output_scale
    kind = ScoreKind(opened.classes, activation, scale)
    interpreters = classifier.open_interpreters(opened)
    return ImageClassifier(
        name=os.path.basename(path),
        image_input=_with_flags(stated, flags, is_fixed=True),
        classes=max(2, opened.classes),
        class_names=names,
        batch=_TFLITE_BATCH,
        scores=lambda images: classifier.scores(opened, images, interpreters),
        kind_of=lambda _: kind,
    )


def _keras_input(model, flags):
    """The model's input. `flags` may state the size that a model leaves open."""
    try:
        return image_input(model)
    except ValueError:
        shape = tuple(model.inputs[0].shape) if len(getattr(model, "inputs", ())) == 1 else ()
        if flags.image_size is None or len(shape) != 4 or None not in shape[1:3]:
            raise
        size = flags.image_size
        return ImageInput(Preprocessing(size, None, "bilinear"), size, size, shape[3] or 3, False)


def _has_fixed_size(model):
    shape = tuple(model.inputs[0].shape)[1:]
    return sum(side is None for side in shape) == 0


def _with_flags(stated, flags, *, is_fixed):
    """The input with the size, crop and interpolation of the flags."""
    spec, size = stated.preprocessing, flags.image_size
    if flags.crop is not None:
        spec = replace(spec, crop=flags.crop or None)
    if flags.interpolation is not None:
        spec = replace(spec, interpolation=flags.interpolation)
    if size is None:
        return replace(stated, preprocessing=spec)
    if is_fixed and (stated.height, stated.width) != (size, size):
        raise ValueError(
            f"--image_size={size}, but the model takes images of {stated.height} x {stated.width} "
            "pixels: leave --image_size out, or use keras_effnet.change_image_size(model, size)"
        )
    spec = replace(spec, image_size=size)
    return replace(stated, preprocessing=spec, height=size, width=size)


def _activation_of(model):
    """The activation of a Keras model's last layer that has one: its name, or None."""
    for layer in reversed(model.layers):
        if getattr(layer, "layers", None):  # a nested model
            return _activation_of(layer)
        if type(layer).__name__ == "Softmax":
            return "softmax"
        name = getattr(getattr(layer, "activation", None), "__name__", None)
        if name is not None:
            return name
    return None


def _kind_of(scores, activation):
    """The :class:`ScoreKind` of scores, by the last activation and by their values.

    A linear layer may follow a softmax (for float32 outputs of a float16 network).
    """
    classes = scores.shape[1]
    in_range = scores.min() >= 0 and scores.max() <= 1
    sums_to_one = in_range and classes > 1 and np.abs(scores.sum(-1) - 1).max() < 1e-2
    if in_range and classes > 1 and (activation == "softmax" or sums_to_one):
        return ScoreKind(classes, "softmax")
    if in_range and activation != "linear":
        return ScoreKind(classes, "sigmoid")
    return ScoreKind(classes, "logits")


def open_model(model, weights=None, labels=None):
    """(keras.Model, class names or None) of a .keras file or a variant's name.

    Raises ``ValueError`` for another `model`, for `weights` in addition to a file, and for another
    number of class names than of classes.
    """
    names = None
    if labels is None and os.path.isfile(model):
        beside = pathlib.Path(model).with_name("labels.txt")
        labels = beside if beside.is_file() else None
    if labels is not None:
        names = read_labels(labels)
    if model in NETWORKS:
        from keras_effnet.constructors import create_model

        stated = resolve_weights(model, weights or "auto").input_spec
        mapped = stated.classes is None or label_map(stated.classes) is not None
        if stated.source:
            print(f"weights of {stated.source}")
        classes = 1000 if mapped else stated.classes
        _check_names(labels, names, classes)
        return create_model(model, weights=weights or "auto", classes=classes), names
    if not os.path.isfile(model):
        raise ValueError(unknown_model(model))
    if weights is not None:
        raise ValueError(
            f"--weights={weights} and --model={model}, a file that already has weights: drop one"
        )
    if model.endswith(".tflite"):
        raise ValueError(
            f"--model={model} is a .tflite file, and this command takes .keras files: effnet "
            "evaluate takes both, and effnet demo shows a .tflite by --tflite"
        )
    if not model.endswith(".keras"):
        raise ValueError(
            f"--model={model} is not a .keras file: give one, or --model=NAME --weights={model}"
        )
    loaded = load_keras_file(model)
    shapes = [tuple(tensor.shape) for tensor in getattr(loaded, "outputs", None) or ()]
    if len(shapes) == 1 and len(shapes[0]) == 2:
        _check_names(labels, names, max(2, shapes[0][1]))
    return loaded, names


def _check_names(labels, names, classes):
    if names is not None and len(names) != classes:
        raise ValueError(
            f"{labels} has {len(names)} class names, but the model has {classes} classes: give one "
            "name for each class, in the order of training"
        )
