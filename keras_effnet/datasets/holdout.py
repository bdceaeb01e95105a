"""Holds out a fraction of each class for evaluation, if a data set has no such split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def check_holdout(holdout: float) -> None:
    """Raises ``ValueError`` unless it is a fraction below 1; 0 holds nothing out."""
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be at least 0 and less than 1, e.g. 0.2; got {holdout}")


def hold_out(
    name: str, labels: np.ndarray, classes: Sequence[str], holdout: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(indices for training, indices for evaluation); `holdout` is the fraction of each class.

    For images with several labels, (images, most), it is the fraction of all images. For 0 nothing
    is held out. The result is sorted, and a function of the labels and the seed. Raises
    ``ValueError``, which starts with `name`, for a class with fewer than two images.

    >>> kept, held_out = hold_out("x", np.array([0, 0, 1, 1]), ("cat", "dog"), 0.5, seed=0)
    >>> len(kept), len(held_out)
    (2, 2)
    """
    random = np.random.default_rng(seed)
    groups = {"": np.arange(len(labels))}
    if labels.ndim == 1:
        groups = {
            f"class {class_name!r}": np.flatnonzero(labels == label)
            for label, class_name in enumerate(classes)
        }
        _check_every_class(name, classes, groups)
    if holdout == 0:
        return np.arange(len(labels)), np.arange(0)
    held_out = []
    for group, indices in groups.items():
        if len(indices) < 2:
            raise ValueError(
                f"{name}: {group} has {len(indices)} image; it needs at least two, one for "
                "training and one for evaluation"
            )
        held_out.append(random.permutation(indices)[: max(1, round(holdout * len(indices)))])
    held_out = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _check_every_class(name, classes, groups):
    """Raises ``ValueError`` for classes without images, which class numbers with gaps give."""
    empty = [c for c, indices in zip(classes, groups.values()) if not len(indices)]
    if not empty:
        return
    present = [c for c in classes if c not in empty]
    problem = f"{name}: no image has the class {_some(empty)}, only {_some(present)}"
    if not all(c.isdecimal() for c in classes):
        raise ValueError(f"{problem}. Remove the class, or add images of it")
    advice = "subtract 1" if empty == ["0"] else "number them without gaps"
    origin = "counting from 1" if empty == ["0"] else "numbers of another list of classes"
    raise ValueError(
        f"{problem}. Labels that are numbers are class numbers, from 0 without gaps; these look "
        f"like {origin}: {advice}, or give names instead"
    )


def _some(names):
    return ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")
