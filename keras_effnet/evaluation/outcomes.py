"""What a classifier predicted for every image: a few numbers an image, whatever the classes.

An :class:`OutcomeRecorder` collects them batch by batch, so that an evaluation of any size needs
little memory. Only images of several labels keep the probabilities of all classes, which average
precision needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.probabilities import FLOAT32_FLOOR, log_probabilities

TOP = 5  # classes that are kept of every image


@dataclass(frozen=True)
class ScoreKind:
    """What the outputs of a classifier are."""

    classes: int  # outputs; 1: one unit, for the second of two classes
    activation: str  # "logits" | "softmax" | "sigmoid", as for log_probabilities
    output_scale: float = 0.0  # of a quantized output; 0 for float32


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The predictions for images. Rows are images; of the classes, the first of equal ones wins."""

    labels: np.ndarray  # int64 (images,), or (images, most) padded with -1: several labels
    loss: np.ndarray  # float64 (images,): see OutcomeRecorder
    rank: np.ndarray  # int64 (images,): classes that score above the (best) label
    best: np.ndarray  # int64 (images, up to 5): the best classes, best first
    best_probability: np.ndarray  # float64, as `best`
    label_probability: np.ndarray  # float64 (images,), of the label, or of the best one
    probabilities: np.ndarray | None = None  # float32 (images, classes), for several labels only

    def __len__(self):
        return len(self.labels)

    @property
    def is_multi_label(self) -> bool:
        """Whether images may have several labels."""
        return self.labels.ndim == 2

    @property
    def predictions(self) -> np.ndarray:
        """int64 (images,): the best class of every image."""
        return self.best[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """float64 (images,): the probability of the best class."""
        return self.best_probability[:, 0]

    @property
    def correct(self) -> np.ndarray:
        """Whether the best class is the label, or one of them: bool (images,)."""
        return self.rank == 0

    @property
    def margin(self) -> np.ndarray:
        """float64 (images,): how far the best class is ahead of the second."""
        second = self.best_probability[:, 1] if self.best.shape[1] > 1 else 0.0
        return self.best_probability[:, 0] - second

    def take(self, indices) -> Outcomes:
        """Only the rows at these indices, in this order."""
        kept = None if self.probabilities is None else self.probabilities[indices]
        return Outcomes(
            labels=self.labels[indices],
            loss=self.loss[indices],
            rank=self.rank[indices],
            best=self.best[indices],
            best_probability=self.best_probability[indices],
            label_probability=self.label_probability[indices],
            probabilities=kept,
        )


class OutcomeRecorder:
    """Collects :class:`Outcomes` batch by batch.

    The loss of an image is the cross-entropy in nats of its label; of several labels, which share
    the target equally. For sigmoid outputs it is the binary cross-entropy, mean over the classes.
    Probabilities of softmax and sigmoid outputs are at least 1.2e-7, as in scikit-learn.

    >>> recorder = OutcomeRecorder(ScoreKind(3, "softmax"))
    >>> recorder.add(np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]), np.array([0, 2]))
    >>> outcomes = recorder.outcomes()
    >>> outcomes.correct.tolist(), outcomes.rank.tolist(), outcomes.loss.round(3).tolist()
    ([True, False], [0, 2], [0.693, 2.303])
    """

    def __init__(self, kind: ScoreKind):
        self.kind = kind
        self._batches = []

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Adds images: scores (batch, classes), integer labels (batch,) or (batch, most), padded
        with -1.

        Raises ``ValueError`` for scores that are NaN or Inf, or of another shape.
        """
        scores, labels = np.asarray(scores), np.asarray(labels, np.int64)
        if scores.shape != (len(labels), self.kind.classes):
            raise ValueError(
                f"scores have shape {scores.shape}; expected {(len(labels), self.kind.classes)}"
            )
        if not np.isfinite(scores).all():
            raise ValueError("the model returned NaN or Inf: its weights or its input are wrong")
        if len(labels):
            self._batches.append(_outcomes_of(*_two_classes(self.kind, scores), labels))

    def outcomes(self) -> Outcomes:
        """The outcomes of all images so far, in the order in which they were added."""
        columns = {
            name: [getattr(batch, name) for batch in self._batches]
            for name in Outcomes.__dataclass_fields__
        }
        if self._batches[0].probabilities is None:
            del columns["probabilities"]
        return Outcomes(**{name: np.concatenate(parts) for name, parts in columns.items()})


def class_probabilities(kind: ScoreKind, scores: np.ndarray) -> np.ndarray:
    """The probabilities (images, classes), float64, of scores; one unit has two classes.

    >>> class_probabilities(ScoreKind(1, "logits"), np.array([[2.0]])).round(2).tolist()
    [[0.12, 0.88]]
    """
    kind, scores = _two_classes(kind, scores)
    return np.exp(log_probabilities(scores, kind.activation, output_scale=kind.output_scale))


def _two_classes(kind, scores):
    """Kind and scores with one column a class, of which one unit has one."""
    if kind.classes > 1:
        return kind, scores
    if kind.activation == "logits":
        return ScoreKind(2, "logits"), np.concatenate([0 * scores, scores], 1)
    return ScoreKind(2, "softmax", kind.output_scale), np.concatenate([1 - scores, scores], 1)


def _outcomes_of(kind, scores, labels):
    log = log_probabilities(
        scores, kind.activation, output_scale=kind.output_scale, floor=FLOAT32_FLOOR
    )
    several = labels if labels.ndim == 2 else labels[:, None]
    rank, label_probability = _of_labels(scores, log, several)
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :TOP].copy()  # a view keeps all classes
    return Outcomes(
        labels=labels,
        loss=_losses(kind, log, several),
        rank=rank,
        best=best,
        best_probability=np.exp(np.take_along_axis(log, best, 1)),
        label_probability=label_probability,
        probabilities=np.exp(log).astype(np.float32) if labels.ndim == 2 else None,
    )


def _of_labels(scores, log, labels):
    """(rank, probability) of the label that scores best, of labels padded with -1."""
    at = np.maximum(labels, 0)
    of_labels = np.where(labels >= 0, np.take_along_axis(scores, at, 1).astype(float), -np.inf)
    chosen = at[np.arange(len(at)), of_labels.argmax(1)]
    score = scores[np.arange(len(at)), chosen][:, None]
    before = (scores == score) & (np.arange(scores.shape[1]) < chosen[:, None])
    rank = (scores > score).sum(1) + before.sum(1)
    return rank, np.exp(log[np.arange(len(at)), chosen])


def _losses(kind, log, labels):
    is_label = labels >= 0
    of_labels = np.take_along_axis(log, np.maximum(labels, 0), 1)
    if kind.activation != "sigmoid":
        return -(of_labels * is_label).sum(1) / is_label.sum(1)
    complement = np.log1p(-np.exp(log))
    complements = np.take_along_axis(complement, np.maximum(labels, 0), 1)
    terms = complement.sum(1) + ((of_labels - complements) * is_label).sum(1)
    return -terms / kind.classes
