"""The training images of a study's trials, and the minival that ranks them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_effnet.datasets.holdout import hold_out

LEAST = 10  # images of a minival
_SEED = 0  # every trial and every study on the same data has the same images


def split_images(
    name: str, labels: np.ndarray, classes: Sequence[str], minival: float, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """(indices to train on, indices of the minival), each with the same fraction of every class.

    `minival` is a fraction of the training images below 1, or a number; `images` is the number of
    images to train on, 0 for all that the minival leaves. Raises ``ValueError``, which starts with
    `name`, for data that are too small.

    >>> training, minival = split_images("x", np.arange(100) % 2, ("a", "b"), 0.1, 40)
    >>> len(training), len(minival), len(np.intersect1d(training, minival))
    (40, 10, 0)
    """
    count = round(minival * len(labels)) if 0 < minival < 1 else int(minival)
    least = max(LEAST, len(classes))
    if not least <= count <= len(labels) // 2 or (minival >= 1 and count != minival):
        raise ValueError(
            f"{name} has {len(labels):,} training images, which do not give a minival of "
            f"{minival:g}: it needs {least} images or more, and at most half of the training "
            "images. Give another --minival, a fraction below 1 or a number, or more data"
        )
    rest, held_out = hold_out(name, labels, classes, count / len(labels), _SEED)
    if not images or images >= len(rest):
        return rest, held_out
    if images < max(2, len(classes)):
        raise ValueError(f"--images={images} is less than one for each of {len(classes)} classes")
    _, used = hold_out(name, labels[rest], classes, images / len(rest), _SEED)
    return rest[used], held_out
