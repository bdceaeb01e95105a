"""Holds out a fraction of each class for evaluation, if a data set has no such split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_effnet.datasets.splits import some

FEW = 10  # training images of a class
_NAMED = 4  # classes in a message


def check_holdout(holdout: float) -> None:
    """Raises ``ValueError`` unless it is a fraction below 1; 0 holds nothing out."""
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be at least 0 and less than 1, e.g. 0.2; got {holdout}")


def hold_out(
    name: str, labels: np.ndarray, classes: Sequence[str], holdout: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(indices for training, indices for evaluation); `holdout` is the fraction of each class.

    For images with several labels, (images, most), it is the fraction of all images. For 0 nothing
    is held out. The only image of a class is for training. The result is sorted, and a function of
    the labels and the seed. Raises ``ValueError``, which starts with `name`, for a class without
    images, or if no image can be held out.

    >>> kept, held_out = hold_out("x", np.array([0, 0, 1, 1]), ("cat", "dog"), 0.5, seed=0)
    >>> len(kept), len(held_out)
    (2, 2)
    """
    random = np.random.default_rng(seed)
    groups = [np.arange(len(labels))]
    if labels.ndim == 1:
        check_every_class(name, labels, classes)
        groups = [np.flatnonzero(labels == label) for label in range(len(classes))]
    if holdout == 0:
        return np.arange(len(labels)), np.arange(0)
    held_out = []
    for indices in groups:
        if len(indices) > 1:
            held_out.append(random.permutation(indices)[: max(1, round(holdout * len(indices)))])
    if not held_out:
        raise ValueError(
            f"{name} has one image of each class: it needs at least two of some class, one for "
            "training and one for evaluation"
        )
    held_out = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def small_classes(training: np.ndarray, evaluation: np.ndarray, classes: Sequence[str]) -> str:
    """A warning that names every class with fewer than FEW training images, or ""; takes labels.

    >>> small_classes(np.array([0] * 99 + [1] * 2), np.array([0]), ("cat", "dog"))
    'few training images, so expect little accuracy: dog (2, none to evaluate)'
    """
    counts, evaluated = (
        np.bincount(labels[labels >= 0], minlength=len(classes))
        for labels in (training, evaluation)
    )
    small = [
        f"{name} ({count}{'' if held_out else ', none to evaluate'})"
        for name, count, held_out in zip(classes, counts.tolist(), evaluated.tolist())
        if count < FEW
    ]
    return f"few training images, so expect little accuracy: {', '.join(small)}" if small else ""


def check_every_class(name: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Raises ``ValueError`` for classes without images, which class numbers with gaps give."""
    present = set(np.unique(labels).tolist())
    empty = [c for label, c in enumerate(classes) if label not in present]
    if not empty:
        return
    present = [classes[label] for label in sorted(present)]
    problem = f"{name}: no image has the class {some(empty, _NAMED)}, only {some(present, _NAMED)}"
    if not all(c.isdecimal() for c in classes):
        raise ValueError(f"{problem}. Remove the class, or add images of it")
    advice = "subtract 1" if empty == ["0"] else "number them without gaps"
    origin = "counting from 1" if empty == ["0"] else "numbers of another list of classes"
    raise ValueError(
        f"{problem}. Labels that are numbers are class numbers, from 0 without gaps; these look "
        f"like {origin}: {advice}, or give names instead"
    )
