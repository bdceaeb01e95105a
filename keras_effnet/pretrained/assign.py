"""Assigns weights to a model by layer name, checking every shape; adapts classifier and stem."""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from keras_effnet.labels import label_map
from keras_effnet.pretrained.files import read_weights
from keras_effnet.weight_transfer import set_weights

_LOG = logging.getLogger("keras_effnet")
_PACKAGE = str(pathlib.Path(__file__).resolve().parents[1]) + os.sep


def load_pretrained(model, path: str | os.PathLike[str]) -> None:
    """Loads a file into a model as ``create_model`` does, adapting the classifier and the stem.

    - Classifier: one of 1,001 or 21,843 classes gives a model of 1,000 classes its columns for
      ImageNet's 1,000. If the counts differ otherwise, or the file has no classifier, the model
      keeps its random one and a ``UserWarning`` is issued. A model without a classifier ignores
      the file's.
    - Stem: from an RGB stem, a model of one channel gets the sum over RGB, and a model of n
      channels gets the RGB kernels repeated in turn, times 3 / n (as in timm). The activations for
      grey images keep their scale.

    Raises ``ValueError`` as :func:`load_weights` does.
    """
    weights = _adapt_stem(model, read_weights(path, model.layers))
    assign_weights(model, _adapt_classifier(model, weights, path), path)


def load_weights(model, path: str | os.PathLike[str]) -> None:
    """Loads a ``.keras``, ``.weights.h5`` or legacy ``.h5`` file into a model, by layer name.

    Normalization constants in the file are ignored: they belong to the model's configuration.
    Raises ``ValueError`` that names every missing or additional layer and every wrong shape; the
    model then keeps its weights.
    """
    assign_weights(model, read_weights(path, model.layers), path)


def assign_weights(
    model, weights: Mapping[str, Sequence[np.ndarray]], source: str | os.PathLike[str]
) -> None:
    """Sets all weights of a model from {layer name: arrays}; `source` is named in errors.

    Raises ``ValueError`` that names every missing or additional layer and every wrong shape; the
    model then keeps its weights.
    """
    problems = _differences(model, weights)
    if problems:
        raise ValueError(
            f"{source} does not fit {model.name}: {len(problems)} differences: "
            + "; ".join(problems)
        )
    for name, layer in _weighted(model).items():
        set_weights(layer, weights[name])


def _weighted(model):
    return {layer.name: layer for layer in model.layers if layer.weights}


def _differences(model, weights):
    expected = _weighted(model)
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in expected]
    for name in expected.keys() & weights.keys():
        given_shapes = [tuple(a.shape) for a in weights[name]]
        shapes = [tuple(w.shape) for w in expected[name].weights]
        if given_shapes != shapes:
            problems.append(f"{name} has shapes {given_shapes}, not {shapes}")
    return sorted(problems)


def _adapt_classifier(model, weights, path):
    """The weights with a classifier that fits the model, if only the classifier differs."""
    classifier = _weighted(model).get("predictions")
    given = weights.get("predictions")
    rest = {name: arrays for name, arrays in weights.items() if name != "predictions"}
    if classifier is None:
        return rest
    shapes = [tuple(w.shape) for w in classifier.weights]
    if given is not None and [a.shape for a in given] == shapes:
        return weights
    if given is not None and given[0].shape[:1] != shapes[0][:1]:
        return weights  # another network's: assign_weights reports it
    classes = shapes[0][1]
    index = label_map(given[0].shape[1]) if given is not None and classes == 1000 else None
    if index is not None:
        _LOG.info("%s: using ImageNet's 1,000 of its %d classes", path, given[0].shape[1])
        return {**rest, "predictions": _columns(given, index)}
    adapted = {**rest, "predictions": classifier.get_weights()}
    if _differences(model, adapted):
        return weights
    reason = "has no classifier" if given is None else f"has {given[0].shape[1]} classes"
    warnings.warn(
        f"{path} {reason}: the classifier of {classes} classes starts at random. Train it before "
        "you use the model",
        UserWarning,
        stacklevel=_stacklevel(),
    )
    return adapted


def _stacklevel():
    """The ``stacklevel`` of a warning in the calling function that shows the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def _columns(classifier, index):
    """A classifier of the given columns; a class with index -1 is never predicted."""
    kernel, bias = classifier
    index = np.array(index)
    absent = index < 0
    kernel, bias = kernel[:, index], bias[index]
    kernel[:, absent] = 0
    bias[absent] = bias[~absent].min() - 10
    return [kernel, bias]


def _adapt_stem(model, weights):
    """The weights with a stem that takes the model's number of channels."""
    stem = _weighted(model).get("stem_conv")
    given = weights.get("stem_conv")
    if stem is None or given is None or given[0].ndim != 4:
        return weights
    kernel = given[0]
    channels = tuple(stem.weights[0].shape)[2]
    if kernel.shape[2] != 3 or channels == 3:
        return weights
    if channels == 1:
        adapted = kernel.sum(axis=2, keepdims=True)
    else:
        adapted = kernel[:, :, np.arange(channels) % 3] * (3 / channels)
    _LOG.info("%s: the RGB stem is adapted to %d channels", model.name, channels)
    return {**weights, "stem_conv": [adapted.astype(kernel.dtype), *given[1:]]}
