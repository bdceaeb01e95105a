"""Which pseudo-labeled images are used, and how often: threshold and balance of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.datasets.splits import some


@dataclass(frozen=True)
class SelectionRule:
    """How pseudo-labeled images are selected (arXiv 1911.04252, section 3.1)."""

    threshold: float = 0.3  # least confidence
    balance: bool = True  # the same number of images of every class
    images_per_class: int = 0  # 0: the mean over the classes
    seed: int = 0  # of the images of rare classes that are repeated once more than others

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")


@dataclass(frozen=True, eq=False)
class Selection:
    """Selected images, in the order of the data."""

    rows: np.ndarray  # int64 (images,), of the scores
    copies: np.ndarray  # int64 (images,), at least 1: how often an epoch has each
    labeled: np.ndarray  # int64 (classes,): images of each predicted class
    confident: np.ndarray  # those above the threshold
    used: np.ndarray  # those selected, without repetitions
    total: np.ndarray  # those selected, with repetitions


def select(
    labels: np.ndarray, confidences: np.ndarray, classes: Sequence[str], rule: SelectionRule
) -> Selection:
    """The :class:`Selection` of images with predicted labels (images,) and confidences (images,).

    Of every class the most confident images are selected, at most as many as the rule states. If a
    class has fewer, they are repeated equally often, and images drawn by the seed once more, so
    that all classes have the same number. Raises ``ValueError`` if no image is confident, or if
    classes that are to be balanced have none.

    >>> labels, confidences = np.array([0, 0, 0, 1, 1]), np.array([0.9, 0.5, 0.8, 0.2, 0.7])
    >>> chosen = select(labels, confidences, ("cat", "dog"), SelectionRule(images_per_class=2))
    >>> chosen.rows.tolist(), chosen.copies.tolist()
    ([0, 2, 4], [1, 1, 2])
    """
    if not len(labels):
        raise ValueError("none of the images can be read: repair them, or give another --data")
    count = len(classes)
    confident = confidences >= rule.threshold
    labeled = np.bincount(labels, minlength=count)
    per_class = np.bincount(labels[confident], minlength=count)
    if not confident.any():
        raise ValueError(
            f"no image has a confidence of {rule.threshold} or more; the highest is "
            f"{confidences.max():.3f}: lower --threshold, or use a better teacher"
        )
    copies = confident.astype(np.int64)
    if rule.balance:
        _check_every_class(per_class, labeled, classes, rule)
        wanted = rule.images_per_class or -(-int(per_class.sum()) // count)
        for label in range(count):
            members = np.flatnonzero(confident & (labels == label))
            copies[members] = _copies(confidences[members], wanted, [rule.seed, label])
    rows = np.flatnonzero(copies)
    return Selection(
        rows=rows,
        copies=copies[rows],
        labeled=labeled,
        confident=per_class,
        used=np.bincount(labels[rows], minlength=count),
        total=np.bincount(labels[rows], copies[rows], minlength=count).astype(np.int64),
    )


def _copies(confidences, wanted, seed):
    """How often each image of a class is used."""
    if len(confidences) >= wanted:
        best = np.argsort(-confidences, kind="stable")[:wanted]
        return np.isin(np.arange(len(confidences)), best).astype(np.int64)
    copies = np.full(len(confidences), wanted // len(confidences))
    order = np.random.default_rng(seed).permutation(len(confidences))
    copies[order[: wanted % len(confidences)]] += 1
    return copies


def _check_every_class(per_class, labeled, classes, rule):
    missing = np.flatnonzero(per_class == 0)
    if not len(missing):
        return
    lower = "lower --threshold, " if labeled[missing].all() else ""
    raise ValueError(
        f"no image is labeled {some([classes[c] for c in missing])} with a confidence of "
        f"{rule.threshold} or more: {lower}add images of "
        f"{'this class' if len(missing) == 1 else 'these classes'}, or give --nobalance to use "
        "the others as they are"
    )
