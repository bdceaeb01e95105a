"""The objective of every search: KL divergence to the float model on a fixed set of images."""

from __future__ import annotations

import copy
import dataclasses
import time

import numpy as np

from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.litert import classifier, ops, runner
from tflite.evaluation import paired_statistics
from tflite.evaluation.output_error import correlation, relative_errors
from tflite.evaluation.user_metric import UserMetric
from tflite.quantization.calibration_cache import NO_CACHE, CalibrationCache

MEASURES = ("KL divergence", "agreement")
OUTPUT_MEASURES = ("relative error", "correlation")  # of models that are no classifiers
_MAX_LEARNING = 512  # images that ranges, weights and biases are computed from
_TRIMMED = 0.03  # fraction of the images, those with the largest divergence
_RUNS = 20  # of a latency measurement


class Objective:
    """How far the scores of a model are from those of the float model, on given images; or how much
    worse it is by the user's own metric.

    Attributes:
        images: uint8 (n, height, width, 3).
        labels: (n,) or None.
        predictions: top-1 classes of the float model, (n,).
    """

    def __init__(
        self,
        float32_model: bytes,
        images: np.ndarray,
        labels=None,
        *,
        metric: UserMetric | None = None,
        cache: CalibrationCache = NO_CACHE,
    ):
        self.images, self.labels, self.metric = images, labels, metric
        self.model = classifier.open_classifier(float32_model)
        self.scores = cache.arrays(
            "scores",
            float32_model,
            images,
            lambda: {"scores": classifier.scores(self.model, images)},
        )["scores"]
        self.predictions = self.scores.argmax(-1)
        self.log = log_probabilities(self.scores, self.model.output_activation)

        if metric is not None:
            self.values = metric(classifier.outputs(self.model, images), labels)

    @property
    def measures(self) -> tuple[str, str]:
        """Names of the two values that a call returns."""
        if self.metric is not None:
            return f"loss of {self.metric.name}", self.metric.name
        return MEASURES if self.model.is_classifier else OUTPUT_MEASURES

    def without_metric(self) -> Objective:
        """The objective of the same images that compares the scores."""
        other = copy.copy(self)
        other.metric = None
        return other

    def first(self, count: int) -> Objective:
        """The objective on the first `count` images only."""
        fewer = copy.copy(self)
        fewer.images, fewer.scores, fewer.predictions, fewer.log = (
            rows[:count] for rows in (self.images, self.scores, self.predictions, self.log)
        )
        fewer.labels = None if self.labels is None else self.labels[:count]
        if self.metric is not None:
            fewer.values = self.metric(classifier.outputs(self.model, fewer.images), fewer.labels)
        return fewer

    def __call__(self, model: bytes) -> tuple[float, float]:
        """(trimmed mean KL(float || model) in nats, prediction agreement in [0, 1]).

        The mean leaves out the 3 % of the images with the largest divergence: a few images that
        overflow a range would hide all other differences. For a model that is no classifier: the
        squared error relative to the variance of the outputs, and their correlation. For the user's
        metric: how much worse its mean is than the float model's (0 if it is better), and the mean.
        """
        if self.metric is not None:
            return self._loss(model)
        if not self.model.is_classifier:
            scores = self._scores_of(model)
            if scores is None:
                return float("inf"), 0.0
            errors = relative_errors(self.model.outputs, self.scores, scores)
            correlations = [
                correlation(self.scores[:, columns], scores[:, columns]) or 0.0
                for _, _, columns in self.model.outputs
            ]
            return trimmed_mean(errors), float(np.mean(correlations))
        kl, predictions = self.evaluate(model)
        return kl, float((predictions == self.predictions).mean())

    def evaluate(self, model: bytes) -> tuple[float, np.ndarray]:
        """(trimmed mean KL in nats, predictions (n,)).

        Infinity and -1 for a model that does not run: XNNPACK's kernels reject scales that differ
        too much. The model must be a converted version of the float model.
        """
        scores = self._scores_of(model)
        if scores is None:
            return float("inf"), np.full(len(self.images), -1)
        _, (_, scale, _) = ops.quantization(model)
        log = log_probabilities(scores, self.model.output_activation, output_scale=scale)
        return (
            trimmed_mean(
                paired_statistics.divergences(self.log, log, self.model.output_activation)
            ),
            scores.argmax(-1),
        )

    def _loss(self, model):
        try:
            opened = dataclasses.replace(self.model, tflite_model=model)
            outputs = classifier.outputs(opened, self.images)
        except (RuntimeError, ValueError):
            return float("inf"), 0.0
        values = self.metric(outputs, self.labels)
        loss = float(self.metric.losses(self.values, values).mean())
        return max(0.0, loss), float(values.mean())

    def _scores_of(self, model):
        """The scores of a converted model; None if it does not run."""
        try:
            return classifier.scores(
                dataclasses.replace(self.model, tflite_model=model), self.images
            )
        except (RuntimeError, ValueError):
            return None


def agreement_and_drop(
    reference: np.ndarray, predictions: np.ndarray, labels: np.ndarray | None
) -> tuple[float, float | None]:
    """(prediction agreement in [0, 1], top-1 drop in percentage points or None without labels).

    Args:
        reference: top-1 classes of the float model, (n,).
        predictions: of the converted model.
        labels: (n,), or None.
    """
    agreement = float((predictions == reference).mean())
    if labels is None:
        return agreement, None
    before, after = (int((rows == labels).sum()) for rows in (reference, predictions))
    return agreement, 100 * (before - after) / len(predictions)  # of counts: no rounding error


def trimmed_mean(divergences: np.ndarray) -> float:
    """The mean without the largest 3 % of the values."""
    ascending = np.sort(divergences)
    return float(ascending[: len(ascending) - int(_TRIMMED * len(ascending))].mean())


def held_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices to learn from, held-out indices) of `count` images in hash order.

    Half of the images, 512 at most, are learned from. With fewer than 64 images, both are all of
    them.
    """
    indices = np.arange(count)
    if count < 64:
        return indices, indices
    learning = min(count - count // 2, _MAX_LEARNING)
    return indices[:learning], indices[learning:]


def latency_ms(*models: bytes, runs: int = _RUNS) -> list[float]:
    """Median latency of one image on one thread in ms, of each model; the models take turns.

    Measures the thread's CPU time, which depends less on other load than wall time.
    """
    return runner.latencies_ms(models, runs, clock=time.thread_time)
