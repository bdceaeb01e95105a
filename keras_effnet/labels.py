"""Class names of ImageNet, and its 1,000 classes among 21,843 or 1,001 outputs. No Keras."""

from __future__ import annotations

import functools
import numbers
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_effnet.suggestions import unknown_name

LABEL_FORMATS = ("names", "short", "wnid")
_TABLE = pathlib.Path(__file__).with_name("imagenet_classes.tsv")


@functools.cache
def _imagenet():
    lines = _TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return tuple(tuple(line.split("\t")) for line in lines)


def imagenet_classes(label_format: str = "names") -> tuple[str, ...]:
    """The labels of ImageNet-1k's 1,000 classes, in the order of the classifier's outputs.

    `label_format` is one of :data:`LABEL_FORMATS`: all names of a class, its first name, or its
    WordNet id. Only the ids are all different. Raises ``ValueError`` for another format.

    >>> [imagenet_classes(label_format)[0] for label_format in LABEL_FORMATS]
    ['tench, Tinca tinca', 'tench', 'n01440764']
    """
    if label_format not in LABEL_FORMATS:
        raise ValueError(unknown_name("label format", label_format, LABEL_FORMATS))
    if label_format == "wnid":
        return tuple(wordnet_id for wordnet_id, _, _ in _imagenet())
    names = (names for _, _, names in _imagenet())
    return tuple(n.split(",")[0] if label_format == "short" else n for n in names)


def label_map(classes: int) -> list[int] | None:
    """The indices of ImageNet-1k's 1,000 classes among the outputs of a larger classifier.

    -1 stands for a class that the classifier lacks. None if `classes` is neither 1,001 nor 21,843.
    1,001 outputs start with a background class (TensorFlow's convention). 21,843 are ImageNet-21k
    as Google trained on it, which lacks one class of the 1,000: teddy bear (850).

    >>> label_map(1001)[:3]
    [1, 2, 3]
    >>> label_map(21843).index(-1)
    850
    """
    if classes == 1001:
        return list(range(1, 1001))
    if classes == 21843:
        return [int(index) for _, index, _ in _imagenet()]
    return None


def class_names_for(classes: int, label_format: str = "names") -> tuple[str, ...]:
    """The names of a classifier's outputs if nothing states them: ImageNet's for 1,000 classes.

    `label_format` is that of :func:`imagenet_classes`.

    >>> class_names_for(2)
    ('0', '1')
    """
    if classes == 1000:
        return imagenet_classes(label_format)
    return tuple(map(str, range(classes)))


def decode_predictions(
    scores: np.ndarray, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple[int | str, str, float]]]:
    """The `top` classes of each row of scores, best first.

    `scores` is (n, classes). For 1,000 classes [[(WordNet id, name, score), ...], ...], as
    ``decode_predictions`` of keras.applications gives. For another number, or with `class_names`,
    [[(index, name, score), ...], ...]; the names default to the indices. Raises ``ValueError`` if
    the number of names differs from the number of classes, for scores that are not finite, and for
    a `top` that is not a number of classes.

    >>> decode_predictions(np.eye(1000)[:1], top=1)
    [[('n01440764', 'tench', 1.0)]]
    >>> decode_predictions([[0.1, 0.7, 0.2]], top=2, class_names=["cat", "dog", "owl"])
    [[(1, 'dog', 0.7), (2, 'owl', 0.2)]]
    """
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores have shape {scores.shape}: give (images, classes)")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite: the images or the weights of the model are not")
    if isinstance(top, bool) or not isinstance(top, numbers.Integral) or top < 0:
        raise ValueError(f"top {top!r} is not a number of classes: give e.g. 5")
    classes = scores.shape[1]
    ids = range(classes)
    if class_names is None and classes == 1000:
        ids = imagenet_classes("wnid")
        class_names = [name.replace(" ", "_") for name in imagenet_classes("short")]
    elif class_names is None:
        class_names = class_names_for(classes)
    if len(class_names) != classes:
        raise ValueError(
            f"{len(class_names)} class names for {classes} classes: give one name for each class, "
            "in the order of training (labels.txt beside a model trained here)"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(ids[i], class_names[i], float(row[i])) for i in b] for row, b in zip(scores, best)]
