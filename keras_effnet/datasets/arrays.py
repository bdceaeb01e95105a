"""Labeled images in an .npz file, or in arrays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.labeled_images import ImageArray, LabeledImages, numbered_classes
from keras_effnet.datasets.splits import ALL

_ARRAYS = ("images", "labels", "classes")
# What np.load raises for other files; the types are those of using an .npy array as an .npz.
_DAMAGED = (OSError, EOFError, ValueError, BadZipFile, zlib.error, AttributeError, TypeError)


@dataclass(frozen=True)
class ArrayDataset:
    """An .npz file with ``images`` and optionally ``labels`` and ``classes`` (names)."""

    path: str
    files: FileSystem = LOCAL
    splits = (ALL,)

    def open(self, *splits: str) -> list[LabeledImages]:
        """The images; ``ValueError`` for a file without such arrays."""
        return [from_arrays(self.path, *self.read())]

    def read(self) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
        """(images, labels or None, class names or None) as they are stored, of any dtype.

        Raises ``ValueError`` for another file, or one without ``images``.
        """
        try:
            with self.files.open(self.path, "rb") as file, np.load(file, allow_pickle=False) as npz:
                arrays = {name: npz[name] for name in _ARRAYS if name in npz}
                present = ", ".join(npz.files) or "(none)"
        except _DAMAGED as error:
            raise ValueError(
                f"{self.path} is not an .npz file with the arrays images and labels: {error}"
            ) from error
        if "images" not in arrays:
            raise ValueError(
                f"{self.path} has the arrays {present}; it needs `images`, "
                "and optionally `labels` and `classes` (names)"
            )
        names = [str(name) for name in arrays["classes"]] if "classes" in arrays else None
        return arrays["images"], arrays.get("labels"), names


def from_arrays(
    name: str, images, labels=None, classes: Sequence[str] | None = None
) -> LabeledImages:
    """:class:`LabeledImages` of uint8 images (n, height, width, 1 or 3) and integer labels (n,).

    Without `classes` (names), the classes are the numbers up to the largest label. Raises
    ``ValueError`` for another shape, dtype or range, or labels that are not classes.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"{name}: images are {images.dtype} {images.shape}; give uint8 in [0, 255] of shape "
            "(examples, height, width, 3) or (..., 1)"
        )
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape == (len(images), 1):  # as keras.datasets gives
            labels = labels[:, 0]
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{name}: labels are {labels.dtype} {labels.shape} for {len(images)} images; give "
                "one integer per image"
            )
        if classes is None:
            classes = numbered_classes(name, int(labels.max()))
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(
                f"{name}: labels run from {labels.min()} to {labels.max()}, but there are "
                f"{len(classes)} classes (0 to {len(classes) - 1})"
            )
        labels = labels.astype(np.int32)
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    names = None if classes is None else tuple(classes)
    return LabeledImages(name, names, ImageArray(images), labels)
