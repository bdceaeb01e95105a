"""The metrics of an evaluation, as values and in JSON types."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from keras_effnet.evaluation.calibration import Calibration, calibrate
from keras_effnet.evaluation.intervals import mean_interval
from keras_effnet.evaluation.multi_label import THRESHOLD, LabelMetrics, label_metrics
from keras_effnet.evaluation.outcomes import TOP, Outcomes, ScoreKind
from keras_effnet.evaluation.per_class import (
    ClassMetrics,
    Share,
    class_metrics,
    confusions,
    largest_confusions,
)

_CONFUSIONS = 50  # in the JSON; the CSV has all
WORST, LEAST_CERTAIN = 20, 10  # images on the sheets
_LOSSES = {
    "softmax": "cross-entropy in nats, mean over the images",
    "logits": "cross-entropy in nats of the softmax of the logits, mean over the images",
    "sigmoid": "binary cross-entropy in nats, mean over the images and classes",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's outcomes on labeled images and the metrics of them."""

    outcomes: Outcomes
    kind: ScoreKind  # of the classifier's outputs
    class_names: tuple[str, ...]  # of the outputs
    identifiers: tuple[str, ...]  # of the images

    @property
    def is_multi_label(self) -> bool:
        """Whether images may have several labels."""
        return self.outcomes.is_multi_label

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.outcomes)

    @property
    def loss(self) -> float:
        """The mean loss, see ``loss_definition``."""
        return float(self.outcomes.loss.mean())

    @property
    def loss_interval(self) -> tuple[float, float]:
        """95 % interval of the loss; NaN for one image."""
        return mean_interval(self.outcomes.loss)

    @property
    def loss_definition(self) -> str:
        """What the loss is, in words."""
        return _LOSSES[self.kind.activation]

    @functools.cached_property
    def top1(self) -> Share:
        """Images whose best class is their label, or one of their labels."""
        return Share.of(int(self.outcomes.correct.sum()), self.images)

    @functools.cached_property
    def top5(self) -> Share | None:
        """Images with a label among the five best classes; None for five classes or fewer."""
        if len(self.class_names) <= TOP:
            return None
        return Share.of(int((self.outcomes.rank < TOP).sum()), self.images)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Calibration of the best class's probability."""
        return calibrate(self.outcomes.confidence, self.outcomes.correct)

    @functools.cached_property
    def classes(self) -> ClassMetrics | LabelMetrics:
        """Metrics of every class: :class:`LabelMetrics` for several labels."""
        if self.is_multi_label:
            return label_metrics(self.outcomes.labels, self.outcomes.probabilities)
        o = self.outcomes
        return class_metrics(o.labels, o.predictions, len(self.class_names))

    @functools.cached_property
    def confusions(self) -> np.ndarray:
        """As :func:`keras_effnet.evaluation.per_class.confusions`; none for several labels."""
        if self.is_multi_label:
            return np.zeros((0, 3), np.int64)
        return confusions(self.outcomes.labels, self.outcomes.predictions)

    def largest_confusions(self, limit: int) -> np.ndarray:
        """The most frequent confusions, (confusions, 3) of (label, prediction, count)."""
        return largest_confusions(self.confusions, self.classes.count, limit)

    @property
    def present(self) -> np.ndarray:
        """The classes that have images or are predicted."""
        return np.flatnonzero(self.classes.count + self.classes.predicted)

    @functools.cached_property
    def worst(self) -> np.ndarray:
        """The rows of the wrong images with the largest losses; with several labels, of all."""
        o = self.outcomes
        rows = np.arange(len(o)) if self.is_multi_label else np.flatnonzero(~o.correct)
        order = np.lexsort((-o.confidence[rows], -o.loss[rows]))
        return rows[order][:WORST]

    @functools.cached_property
    def least_certain(self) -> np.ndarray:
        """The rows of the images whose two best classes are closest."""
        return np.argsort(self.outcomes.margin, kind="stable")[:LEAST_CERTAIN]

    def label_names(self, row: int) -> list[str]:
        """The names of an image's labels."""
        labels = np.atleast_1d(self.outcomes.labels[row])
        return [self.class_names[n] for n in labels if n >= 0]

    def as_dict(self) -> dict:
        """The metrics in JSON types; None where one is undefined."""
        calibration = self.calibration
        metrics = {
            "images": self.images,
            "loss": self.loss,
            "loss_interval": _json(self.loss_interval),
            "loss_definition": self.loss_definition,
            "top1": self._share(self.top1),
            "top5": self._share(self.top5),
            "expected_calibration_error": calibration.ece,
            "overconfidence": calibration.overconfidence,
            "calibration_bins": [
                {"images": int(n), "confidence": _json(c), "accuracy": _json(a)}
                for n, c, a in zip(calibration.count, calibration.confidence, calibration.accuracy)
            ],
        }
        if self.is_multi_label:
            metrics["mean_average_precision"] = _json(self.classes.mean_average_precision)
            metrics["micro"] = self.classes.micro()
            metrics["threshold"] = THRESHOLD
        metrics["macro"] = self.classes.macro()
        return {
            "metrics": metrics,
            "classes": [self.class_row(c) for c in self.present],
            "confusions": [
                {
                    "label": self.class_names[label],
                    "prediction": self.class_names[prediction],
                    "images": int(count),
                }
                for label, prediction, count in self.largest_confusions(_CONFUSIONS)
            ],
            "worst_mistakes": [self.image_row(row) for row in self.worst],
            "least_certain": [self.image_row(row) for row in self.least_certain],
        }

    def class_row(self, c: int) -> dict:
        """The metrics of a class in JSON types."""
        m = self.classes
        names = ["precision", "recall", "f1"]
        if self.is_multi_label:
            names += ["average_precision", "best_threshold", "best_f1"]
        return {
            "class": self.class_names[c],
            "output": int(c),
            "images": int(m.count[c]),
            "predicted": int(m.predicted[c]),
            "correct": int(m.correct[c]),
            **{name: _json(getattr(m, name)[c]) for name in names},
        }

    def image_row(self, row: int) -> dict:
        """The outcome of an image in JSON types."""
        o = self.outcomes
        names = self.label_names(row)
        return {
            "image": self.identifiers[row],
            "label": names if self.is_multi_label else names[0],
            "prediction": self.class_names[o.predictions[row]],
            "correct": bool(o.correct[row]),
            "confidence": float(o.confidence[row]),
            "label_probability": float(o.label_probability[row]),
            "label_rank": int(o.rank[row]) + 1,
            "loss": float(o.loss[row]),
        }

    def _share(self, share):
        return None if share is None else asdict(share)


def evaluate_outcomes(
    outcomes: Outcomes, kind: ScoreKind, class_names: Sequence[str], identifiers: Sequence[str]
) -> Evaluation:
    """The :class:`Evaluation` of outcomes; class names are those of all outputs.

    One unit needs the names of its two classes, in the order of its labels.

    >>> from keras_effnet.evaluation.outcomes import OutcomeRecorder
    >>> recorder = OutcomeRecorder(ScoreKind(2, "softmax"))
    >>> recorder.add(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    >>> evaluation = evaluate_outcomes(recorder.outcomes(), recorder.kind, "ab", ["1", "2"])
    >>> evaluation.top1.value, evaluation.as_dict()["worst_mistakes"][0]["image"]
    (0.5, '2')
    """
    return Evaluation(outcomes, kind, tuple(class_names), tuple(identifiers))


def _json(value):
    """NaN as None; tuples of them likewise."""
    if isinstance(value, tuple):
        return [_json(v) for v in value]
    return None if math.isnan(value) else float(value)
