"""Signs that a float model is wrong: pixel range, logits, top-1 at chance."""

from __future__ import annotations

import numpy as np

from keras_effnet.diagnostics import check_model
from keras_effnet.evaluation.intervals import wilson

_PIXEL_CHECKS = ("normalized-twice", "scaled-twice", "not-normalized", "range")

LOGITS = (
    "the network ends in logits, not in probabilities: apps show them as they are, e.g. 4.12. "
    "--softmax (softmax=True in Python) appends a softmax. If the outputs are not the scores of "
    "classes, e.g. of a regression, top-1, agreement and KL divergence have no meaning: give "
    "--metric (metric=function in Python)"
)

GREY = (
    "the network takes grey images: MediaPipe's ImageClassifier accepts RGB only. Use the LiteRT "
    "interpreter; images become grey as (299 R + 587 G + 114 B) / 1000. The file has no metadata, "
    "which describe RGB images: labels are in OUT.labels.txt only"
)


def pixel_range(keras_model, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What ``keras_effnet.check_model`` finds about pixels in [0, 255], which a .tflite gets."""
    batch = np.zeros((1, *shape), np.float32)
    batch[:, ::2] = 255
    try:
        found = check_model(keras_model, batch)
    except (AttributeError, IndexError, TypeError, ValueError):
        return ()  # a model whose layers it does not know
    return tuple(
        f"{finding}. A .tflite gets pixels in [0, 255]: for a model that was trained on [0, 1], "
        "convert keras.Sequential([keras.Input(shape), keras.layers.Rescaling(1 / 255), model])"
        for finding in found
        if finding.check in _PIXEL_CHECKS
    )


def is_at_chance(top1: float, images: int, classes: int) -> bool:
    """Whether a top-1 in [0, 1] may be that of random predictions.

    >>> is_at_chance(0.12, 100, 10), is_at_chance(0.8, 100, 10)
    (True, False)
    """
    low, _ = wilson(round(top1 * images), images)
    return low <= 1 / classes


def chance(top1: float, images: int, classes: int) -> str:
    """The warning for a float model whose top-1 is at chance."""
    return (
        f"top-1 of the float model is {top1:.2%} on {images:,} images, as by chance with {classes} "
        "classes: it may expect other pixels than [0, 255], or the order of the classes differs "
        "(give --labels)"
    )
