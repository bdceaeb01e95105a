"""Average precision, F1 and thresholds of every class, of images with several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.per_class import ClassMetrics

THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class LabelMetrics(ClassMetrics):
    """As :class:`ClassMetrics`, where a class is predicted from the threshold on; rows are classes,
    NaN where a metric is undefined.
    """

    average_precision: np.ndarray  # float64; NaN for a class without images
    best_threshold: np.ndarray  # float64: of the largest F1 on these images
    best_f1: np.ndarray  # float64, at that threshold

    @property
    def mean_average_precision(self) -> float:
        """mAP: the mean over the classes with images."""
        return float(np.nanmean(self.average_precision))

    def micro(self) -> dict[str, float]:
        """Precision, recall and F1 of all pairs of an image and a class."""
        correct, predicted, count = (
            float(v.sum()) for v in (self.correct, self.predicted, self.count)
        )
        return {
            "precision": correct / predicted if predicted else 0.0,
            "recall": correct / count if count else 0.0,
            "f1": 2 * correct / (predicted + count) if predicted + count else 0.0,
        }


def label_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float = THRESHOLD
) -> LabelMetrics:
    """The :class:`LabelMetrics` of labels (images, most), padded with -1, and probabilities
    (images, classes).

    >>> labels = np.array([[0, 1], [1, -1]])
    >>> metrics = label_metrics(labels, np.array([[0.9, 0.6], [0.2, 0.4]]))
    >>> metrics.average_precision.tolist(), metrics.correct.tolist()
    ([1.0, 1.0], [1, 1])
    """
    images, classes = probabilities.shape
    rows = np.repeat(np.arange(images), labels.shape[1])[labels.ravel() >= 0]
    columns = labels.ravel()[labels.ravel() >= 0]
    order = np.argsort(columns, kind="stable")
    ends = np.searchsorted(columns[order], np.arange(classes + 1))
    curves = []
    for c in range(classes):
        truth = np.zeros(images, bool)
        truth[rows[order[ends[c] : ends[c + 1]]]] = True
        curves.append(_of_class(truth, probabilities[:, c], threshold))
    count, predicted, correct, *rates = (np.array(column) for column in zip(*curves))
    return LabelMetrics(count, predicted, correct, *rates)


def _of_class(truth, probability, threshold):
    """(count, predicted, correct, average precision, best threshold, best F1) of one class."""
    positive = probability >= threshold
    count = int(truth.sum())
    counts = (count, int(positive.sum()), int((positive & truth).sum()))
    if not count:
        return (*counts, np.nan, np.nan, np.nan)
    order = np.argsort(-probability, kind="stable")
    scores, hits = probability[order], np.cumsum(truth[order])
    last = np.append(np.diff(scores) != 0, True)  # equal scores are one threshold
    at, hits, scores = np.flatnonzero(last) + 1, hits[last], scores[last]
    precision, recall = hits / at, hits / count
    average = float((np.diff(recall, prepend=0) * precision).sum())
    f1 = 2 * hits / (at + count)
    best = int(f1.argmax())
    return (*counts, average, float(scores[best]), float(f1[best]))
