"""Calibration: whether the confidence of predictions is the share of them that is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15  # of Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence and accuracy in equal bins of the confidence from 0 to 1; NaN in empty ones."""

    count: np.ndarray  # int64 (bins,)
    confidence: np.ndarray  # float64 (bins,): mean of the bin
    accuracy: np.ndarray  # float64 (bins,)

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]: the mean gap, weighted by the images."""
        used = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[used]
        return float((gaps * self.count[used]).sum() / self.count.sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy, in [-1, 1]; negative: predictions are too cautious."""
        used = self.count > 0
        gaps = (self.confidence - self.accuracy)[used]
        return float((gaps * self.count[used]).sum() / self.count.sum())


def calibrate(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """The :class:`Calibration` of predictions: confidence in [0, 1] and bool, both (images,).

    A confidence at the edge of two bins belongs to the lower one.

    >>> calibrate(np.array([0.9, 0.9, 0.6]), np.array([True, True, False]), 5).ece
    0.26666666666666666
    """
    edges = np.linspace(0, 1, bins + 1)
    at = np.searchsorted(edges[1:-1], confidence)
    count = np.bincount(at, minlength=bins)
    sums = (np.bincount(at, weights=v, minlength=bins) for v in (confidence, correct))
    means = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
    return Calibration(count, *means)
