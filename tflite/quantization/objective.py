"""The objective of every search: KL divergence to the float model on a fixed set of images."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.litert import classifier, ops
from tflite.evaluation import paired_statistics
from tflite.evaluation.output_error import correlation, relative_errors
from tflite.evaluation.user_metric import CHECK_IMAGES, UserMetric
from tflite.quantization.calibration_cache import NO_CACHE, CalibrationCache

MEASURES = ("KL divergence", "agreement")
OUTPUT_MEASURES = ("relative error", "correlation")  # of models that are no classifiers
FEWEST_HELD_OUT = 64  # images; fewer are both learned from and evaluated on
_MAX_LEARNING = 512  # images that ranges, weights and biases are computed from
_CROSS_FITTED = 512  # with fewer images, every image is learned from and evaluated on
_TRIMMED = 0.03  # fraction of the images, those with the largest divergence


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The errors of a model, image by image."""

    divergences: np.ndarray  # (n,) KL in nats, or relative errors; infinity: it does not run
    same: np.ndarray | None  # (n,) bool, the float model's top-1; None where that has no meaning
    agreement: float  # in [0, 1]; the correlation of the outputs where top-1 has no meaning
    signed: bool = False  # losses by the user's metric, negative if better; agreement is its mean

    @property
    def mean(self) -> float:
        """The trimmed mean of the divergences; of losses the mean, at least 0."""
        if self.signed:
            return max(0.0, float(self.divergences.mean()))
        return trimmed_mean(self.divergences)

    def improvement_to(self, candidate: ImageErrors) -> paired_statistics.Improvement:
        """How much smaller the errors of a candidate are."""
        return paired_statistics.improvement(
            self.divergences,
            candidate.divergences,
            self.same,
            candidate.same,
            roots=not self.signed,
        )

    @classmethod
    def joined(cls, parts: Sequence[ImageErrors]) -> ImageErrors:
        """The errors on the images of all parts."""
        sizes = [len(part.divergences) for part in parts]
        return cls(
            np.concatenate([part.divergences for part in parts]),
            None if parts[0].same is None else np.concatenate([part.same for part in parts]),
            float(np.average([part.agreement for part in parts], weights=sizes)),
            parts[0].signed,
        )


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
            self.values = self._values_of(classifier.outputs(self.model, images))

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
            fewer.values = fewer._values_of(classifier.outputs(self.model, fewer.images))
        return fewer

    def __call__(self, model: bytes) -> tuple[float, float]:
        """(trimmed mean KL(float || model) in nats, prediction agreement in [0, 1]).

        The mean leaves out the 3 % of the images with the largest divergence: a few images that
        overflow a range would hide all other differences. For a model that is no classifier: the
        squared error relative to the variance of the outputs, and their correlation. For the user's
        metric: how much worse its mean is than the float model's (0 if it is better), and the mean.
        """
        errors = self.errors(model)
        return errors.mean, errors.agreement

    def errors(self, model: bytes) -> ImageErrors:
        """The errors of a converted version of the float model, image by image.

        Infinite for a model that does not run: XNNPACK's kernels reject scales that differ too
        much.
        """
        if self.metric is not None:
            return self._losses(model)
        scores = self._scores_of(model)
        classifies = self.model.is_classifier
        if scores is None:
            same = np.zeros(len(self.images), bool) if classifies else None
            return ImageErrors(np.full(len(self.images), np.inf), same, 0.0)
        if classifies:
            same = scores.argmax(-1) == self.predictions
            log = self._log_of(model, scores)
            kl = paired_statistics.divergences(self.log, log, self.model.output_activation)
            return ImageErrors(kl, same, float(same.mean()))
        correlations = [
            correlation(self.scores[:, columns], scores[:, columns]) or 0.0
            for _, _, columns in self.model.outputs
        ]
        errors = relative_errors(self.model.outputs, self.scores, scores)
        return ImageErrors(errors, None, float(np.mean(correlations)))

    def predictions_of(self, model: bytes) -> np.ndarray:
        """The top-1 classes (n,) of a converted version of the model; -1 if it does not run."""
        scores = self._scores_of(model)
        return np.full(len(self.images), -1) if scores is None else scores.argmax(-1)

    def _losses(self, model):
        try:
            opened = dataclasses.replace(self.model, tflite_model=model)
            outputs = classifier.outputs(opened, self.images)
        except (RuntimeError, ValueError):
            return ImageErrors(np.full(len(self.values), np.inf), None, 0.0, signed=True)
        values = self._values_of(outputs)
        losses = self.metric.losses(self.values, values)
        return ImageErrors(losses, None, float(values.mean()), signed=True)

    def _values_of(self, outputs):
        """The user's metric of each image; of each 16 images if it is one number for all."""
        values, count = self.metric(outputs, self.labels), len(self.images)
        if len(values) == count or count < 2 * CHECK_IMAGES:
            return values

        def part(rows):
            if isinstance(outputs, dict):
                some = {name: each[rows] for name, each in outputs.items()}
            else:
                some = outputs[rows]
            return self.metric(some, None if self.labels is None else self.labels[rows])

        parts = np.array_split(np.arange(count), count // CHECK_IMAGES)
        return np.concatenate([part(rows) for rows in parts])

    def _log_of(self, model, scores):
        _, (_, scale, _) = ops.quantization(model)
        return log_probabilities(scores, self.model.output_activation, output_scale=scale)

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

    Half of the images, 512 at most, are learned from. With fewer than 64 (``FEWEST_HELD_OUT``),
    both are all of them.
    """
    indices = np.arange(count)
    if count < FEWEST_HELD_OUT:
        return indices, indices
    learning = min(count - count // 2, _MAX_LEARNING)
    return indices[:learning], indices[learning:]


def folds(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(indices to learn from, indices to evaluate on)] of `count` images in hash order.

    With fewer than 512 images, two folds take turns (cross-fitting): what is learned from one half
    is evaluated on the other, so that all images count for both. With more, or with fewer than 64,
    there is one fold, as in ``held_out``.

    >>> [(len(learn), len(held)) for learn, held in folds(256)]
    [(128, 128), (128, 128)]
    """
    learning, held = held_out(count)
    if FEWEST_HELD_OUT <= count < _CROSS_FITTED:
        return [(learning, held), (held, learning)]
    return [(learning, held)]
