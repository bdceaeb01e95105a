"""Accuracy, and precision, recall and F1 of every class, of images with one label each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.intervals import wilson


@dataclass(frozen=True)
class Share:
    """A proportion of images with its 95 % Wilson interval, all in [0, 1]."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, count: int) -> Share:
        """`hits` of `count` images.

        >>> Share.of(9, 10).value
        0.9
        """
        return cls(hits / count, *wilson(hits, count))


@dataclass(frozen=True, eq=False)
class ClassMetrics:
    """Counts and metrics of classes; rows are classes, NaN where a metric is undefined."""

    count: np.ndarray  # int64: images with the label
    predicted: np.ndarray  # int64: images with the prediction
    correct: np.ndarray  # int64

    @property
    def precision(self) -> np.ndarray:
        """Correct of the predicted images; NaN for a class that is never predicted."""
        return _ratio(self.correct, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Correct of the class's images; NaN for a class without images."""
        return _ratio(self.correct, self.count)

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of precision and recall: 0 if all predictions are wrong."""
        return _ratio(2 * self.correct, self.count + self.predicted)

    def macro(self) -> dict[str, float]:
        """Means over the classes with images, where an undefined precision counts as 0: as
        scikit-learn's ``average="macro"`` with ``labels`` of these classes.
        """
        present = self.count > 0
        return {
            name: float(np.nan_to_num(getattr(self, name)[present]).mean())
            for name in ("precision", "recall", "f1")
        }


def class_metrics(labels: np.ndarray, predictions: np.ndarray, classes: int) -> ClassMetrics:
    """The :class:`ClassMetrics` of integer labels and predictions (images,).

    >>> metrics = class_metrics(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    >>> metrics.recall.tolist(), metrics.precision.tolist()
    ([0.5, 1.0], [1.0, 0.5])
    """
    count, predicted, correct = (
        np.bincount(values, minlength=classes)
        for values in (labels, predictions, labels[labels == predictions])
    )
    return ClassMetrics(count, predicted, correct)


def confusions(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The non-zero cells of the confusion matrix: int64 (cells, 3) of (label, prediction, count).

    Sorted by label and prediction.

    >>> confusions(np.array([0, 0, 1]), np.array([1, 1, 1])).tolist()
    [[0, 1, 2], [1, 1, 1]]
    """
    pairs, counts = np.unique(np.stack([labels, predictions], 1), axis=0, return_counts=True)
    return np.concatenate([pairs, counts[:, None]], 1)


def largest_confusions(cells: np.ndarray, count: np.ndarray, limit: int) -> np.ndarray:
    """The cells off the diagonal with the most images, the largest share of the label first among
    equal ones. `count` has the images of every class.
    """
    off = cells[cells[:, 0] != cells[:, 1]]
    order = np.lexsort((off[:, 1], off[:, 0], count[off[:, 0]], -off[:, 2]))
    return off[order][:limit]


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The quotient, float64; NaN where `total` is 0."""
    return np.divide(part, total, out=np.full(len(total), np.nan), where=total > 0)
