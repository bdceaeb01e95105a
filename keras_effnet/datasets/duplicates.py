"""Images with the same bytes: in training and evaluation, or in two classes.

Files are compared by size and by their first and last bytes, which are known from
:mod:`keras_effnet.datasets.file_probe`. Only files that are equal in all of these are read.
TFRecord records are not compared.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

from keras_effnet.datasets.labeled_images import ImageArray, ImageFiles, LabeledImages

_NAMED = 3


def describe_duplicates(training: LabeledImages, evaluation: LabeledImages) -> tuple[str, ...]:
    """One line for images of both sets, and one for images with several labels; or ().

    >>> import numpy as np
    >>> storage = ImageArray(np.zeros((2, 4, 4, 3), np.uint8))
    >>> images = LabeledImages("x", ("cat", "dog"), storage, np.array([0, 1]))
    >>> describe_duplicates(images.take([0]), images.take([1]))[0][:60]
    '1 evaluation images have the same bytes as training images, '
    """
    sets = (training, evaluation)
    leaks, conflicts = [], []
    for group in find_duplicates(sets):
        of_sets = [[i for number, i in group if number == n] for n in range(2)]
        if all(of_sets):
            leaks += [(evaluation.where(i), training.where(of_sets[0][0])) for i in of_sets[1]]
        by_labels = {sets[number].labels_of(i): (number, i) for number, i in group}
        if len(by_labels) > 1:
            conflicts.append([sets[number].where(i) for number, i in by_labels.values()])
    lines = []
    if leaks:
        lines.append(
            f"{len(leaks):,} evaluation images have the same bytes as training images, so the "
            f"accuracy is too high: {_name(leaks)}"
        )
    if conflicts:
        lines.append(
            f"{len(conflicts):,} images are in several classes with the same bytes: "
            f"{_name(conflicts)}"
        )
    return tuple(lines)


def find_duplicates(sets: Sequence[LabeledImages]) -> list[list[tuple[int, int]]]:
    """Groups of (number of the set, index of the image) with the same bytes, two or more each."""
    cheap = collections.defaultdict(list)
    for number, images in enumerate(sets):
        for i, key in enumerate(_cheap_keys(images.storage)):
            cheap[key].append((number, i))
    groups = []
    for group in cheap.values():
        if len(group) > 1:
            equal = collections.defaultdict(list)
            for number, i in group:
                equal[content_digest(sets[number].stored(i))].append((number, i))
            groups += [same for same in equal.values() if len(same) > 1]
    return groups


def content_digest(stored: bytes | np.ndarray) -> str:
    """A hash of a stored image, 32 hexadecimal digits: equal for equal bytes.

    >>> content_digest(b"image")
    'bd8df2a8a9f082951387300becc9be66'
    """
    content = stored if isinstance(stored, bytes) else stored.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _cheap_keys(storage):
    """A hashable of each image that equal images share."""
    if isinstance(storage, ImageFiles):
        return storage.probes or ()
    if isinstance(storage, ImageArray):
        return (content_digest(image) for image in storage.pixels)
    return ()


def _name(groups):
    named = [" = ".join(group) for group in groups[:_NAMED]]
    return ", ".join(named) + (f" and {len(groups) - _NAMED} others" if groups[_NAMED:] else "")
