"""Leaves out image files that cannot be decoded, after decoding only those that look incomplete."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keras_effnet.datasets.file_probe import map_files
from keras_effnet.datasets.labeled_images import ImageFiles, LabeledImages


def without_undecodable(images: LabeledImages, limit: int) -> LabeledImages:
    """The images without files that are damaged; ``skipped`` has their names.

    Files that end like complete images are not decoded: what is wrong inside one is noticed when it
    is read. Raises ``ValueError`` for more than `limit` damaged files, and for a class without
    others. Images that are not files are returned as they are.
    """
    storage = images.storage
    if not isinstance(storage, ImageFiles) or storage.probes is None:
        return images
    unsure = [i for i, probe in enumerate(storage.probes) if not probe.is_complete]

    def error_of(i):
        try:
            images.pixels(i)
        except ValueError as error:
            return str(error)
        return None

    errors = dict(zip(unsure, map_files(error_of, unsure, "decoding incomplete files")))
    damaged = [i for i in unsure if errors[i] is not None]
    names = [images.where(i) for i in damaged]
    if len(damaged) > limit:
        raise too_many_undecodable(limit, names, errors[damaged[-1]])
    kept = images.take(np.setdiff1d(np.arange(len(images)), damaged))
    if images.known_labels is not None:
        for label in np.setdiff1d(images.labels[images.labels >= 0], kept.labels):
            raise ValueError(
                f"{images.name}: no image of the class {images.classes[label]} can be decoded: "
                f"{', '.join(names[:3])}. Repair them, or remove the class"
            )
    return replace(kept, skipped=tuple(names))


def too_many_undecodable(limit: int, names: list[str], error: str) -> ValueError:
    """The exception for more than `limit` such images; `error` is that of the last."""
    named = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return ValueError(
        f"More than {limit} images cannot be decoded: {named} ({error}). Repair or remove them, or "
        "raise the limit (--max_corrupt)"
    )
