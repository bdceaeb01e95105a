"""The user's own metric of a model's outputs, in place of top-1 and KL divergence.

A metric is a function ``metric(outputs, labels)``:

- outputs: float32, (images, ...) of the model's only output, or {name: (images, ...)} of several.
- labels: int64 (images,), or None if the images have none.
- It returns one number for all images, or an array (images,) with a number for each image, whose
  mean is the metric. With an array, the report has a confidence interval.
- Higher is better. If lower is better, the function says so: ``metric.lower_is_better = True``.

It must work on any 16 images or more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.intervals import mean_interval

CHECK_IMAGES = 16  # that a metric is tried on before anything slow


@dataclass(frozen=True)
class UserMetric:
    """A checked metric.

    >>> mean = UserMetric(lambda outputs, labels: outputs.mean(-1), "mean")
    >>> float(mean(np.ones((16, 2), np.float32), None).mean())
    1.0
    """

    function: Callable
    name: str

    @classmethod
    def of(cls, function: Callable) -> UserMetric:
        """The metric that a function defines, under the function's name.

        Raises:
            ValueError: it cannot be called.
        """
        if not callable(function):
            raise ValueError(
                f"metric must be a function (outputs, labels), got {type(function).__name__}"
            )
        return cls(function, getattr(function, "__name__", type(function).__name__))

    @property
    def lower_is_better(self) -> bool:
        """As the function says by its attribute ``lower_is_better``; else higher is better."""
        return bool(getattr(self.function, "lower_is_better", False))

    def __call__(self, outputs, labels: np.ndarray | None) -> np.ndarray:
        """The values: float64, (images,) or (1,) for one number.

        Raises:
            ValueError: the function raised, or returned something else, NaN or infinity.
        """
        images = len(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)
        try:
            returned = self.function(outputs, labels)
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(str(error).split()) or "no reason given"
            hint = "" if labels is not None else " (the images have no labels: it gets None)"
            raise ValueError(
                f"metric {self.name} raised {type(error).__name__}: {reason}{hint}"
            ) from error
        try:
            values = np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            values = None
        if values is None or values.shape not in ((), (1,), (images,)):
            what = type(returned).__name__ if values is None else f"shape {values.shape}"
            raise ValueError(
                f"metric {self.name} returned {what} for {images} images: return one number, or an "
                f"array ({images},) with one for each image"
            )
        values = values.reshape(-1)
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise ValueError(
                f"metric {self.name} returned NaN or infinity for {bad} of {len(values)} values; "
                "return finite numbers"
            )
        return values

    def losses(self, reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
        """How much worse the candidate's values are than the reference's; positive is worse."""
        return (candidate - reference) * (1 if self.lower_is_better else -1)


@dataclass(frozen=True)
class MetricLoss:
    """The user's metric of two models on the same images."""

    name: str
    lower_is_better: bool
    reference: float
    candidate: float | None  # None without a candidate
    loss: float | None  # positive: the candidate is worse
    confidence_interval: tuple[float, float] | None  # 95 %, of the loss; None for one number


def metric_loss(
    metric: UserMetric, reference: np.ndarray, candidate: np.ndarray | None
) -> MetricLoss:
    """The :class:`MetricLoss` of the values of two models, as ``UserMetric`` returns them.

    >>> accuracy = UserMetric(lambda outputs, labels: outputs.argmax(-1) == labels, "accuracy")
    >>> row = metric_loss(accuracy, np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    >>> row.reference, row.candidate, row.loss
    (1.0, 0.5, 0.5)
    """
    mean = float(reference.mean())
    if candidate is None:
        return MetricLoss(metric.name, metric.lower_is_better, mean, None, None, None)
    losses = metric.losses(reference, candidate)
    return MetricLoss(
        name=metric.name,
        lower_is_better=metric.lower_is_better,
        reference=mean,
        candidate=float(candidate.mean()),
        loss=float(losses.mean()),
        confidence_interval=mean_interval(losses) if len(losses) > 1 else None,
    )
