"""The training and the evaluation images of a ``--data`` path: which images a training uses."""

from __future__ import annotations

import collections
import os
import re
from dataclasses import replace

from keras_effnet.datasets import tfds
from keras_effnet.datasets.dataset import Dataset, check_path, open_dataset
from keras_effnet.datasets.duplicates import describe_duplicates
from keras_effnet.datasets.folders import FolderDataset, check_several_classes
from keras_effnet.datasets.holdout import (
    check_every_class,
    check_holdout,
    hold_out,
    small_classes,
)
from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.datasets.manifests import ManifestDataset
from keras_effnet.datasets.splits import ALL, TEST, TRAINING, evaluation_split, some
from keras_effnet.datasets.undecodable import without_undecodable

ON_DUPLICATES = ("warn", "error", "ignore")


def open_training_data(
    data: str | os.PathLike[str],
    *,
    holdout: float,
    seed: int,
    max_corrupt: int = 10,
    on_duplicates: str = "warn",
    dataset: Dataset | None = None,
) -> tuple[LabeledImages, LabeledImages]:
    """(training images, evaluation images) of any data set with labels.

    The evaluation images are the ``validation`` split, else ``minival``, else ``test``. If the data
    has none, the fraction `holdout` of every class is held out, a function of the seed. Up to
    `max_corrupt` image files are skipped. The same bytes in both, or in two classes, are a note, or
    an error for `on_duplicates` "error". `dataset` is that of the path, if it is open; a remote one
    must be. Raises ``ValueError`` for data that cannot be trained on.
    """
    data = os.fspath(data)
    check_holdout(holdout)
    check_path(data)
    dataset = dataset or open_dataset(data)
    names = _used_splits(data, dataset)
    opened = dataset.open(*names)
    for images in opened:
        _check_classes(dataset, images)
    if isinstance(dataset, ManifestDataset):
        check_every_class(data, opened[0].labels, opened[0].classes)
    opened = [without_undecodable(images, max_corrupt) for images in opened]
    if len(opened) == 1:
        (images,) = opened
        kept = hold_out(images.name, images.labels, images.classes, holdout, seed)
        opened = [images.take(indices) for indices in kept]
    training, evaluation = opened
    notes = []
    if TEST in dataset.splits and TEST not in names:
        notes.append(f"kept for the end of the run: the test images of {data}")
    notes.append(_almost_same(training.classes))
    notes.append(small_classes(training.labels, evaluation.labels, training.classes))
    if on_duplicates != "ignore":
        notes += _describe_duplicates(training, evaluation, on_duplicates)
    notes = tuple(note for note in notes if note)
    return replace(training, notes=(*notes, *training.notes)), evaluation


def _almost_same(classes):
    """A note about class names that differ in upper and lower case, spaces, _ or - only."""
    spellings = collections.defaultdict(list)
    for name in classes:
        spellings[re.sub(r"[\s_-]", "", name.casefold()) or name].append(name)
    same = [" = ".join(map(repr, names)) for names in spellings.values() if len(names) > 1]
    if not same:
        return ""
    return f"classes whose names differ in case, spaces, _ or - only: {some(same)}"


def _used_splits(data, dataset):
    """The names of the splits to train and to evaluate on, or only the former."""
    if data.startswith(tfds.PREFIX) and dataset.named_split:
        raise ValueError(
            f"{data} names a split; training uses train, and validation or test to evaluate: give "
            f"{data.rpartition('/')[0]}"
        )
    if dataset.splits == (ALL,):
        return (ALL,)
    if TRAINING not in dataset.splits:
        kind = "shards" if hasattr(dataset, "shards") else "images"
        raise ValueError(f"{data} has no train {kind}, but {', '.join(dataset.splits)} {kind}")
    evaluation = evaluation_split(dataset.splits)
    return (TRAINING, evaluation) if evaluation else (TRAINING,)


def _check_classes(dataset, images):
    """Raises ``ValueError`` for images without labels, or of only one class."""
    if isinstance(dataset, FolderDataset):
        check_several_classes(images)
    if images.labels is None:
        raise ValueError(f"{images.name} has no labels; training needs one for each image")
    if len(images.classes) < 2:
        raise ValueError(
            f"{images.name} has only one class ({images.classes[0]}); training needs at least two"
        )


def _describe_duplicates(training, evaluation, on_duplicates):
    lines = describe_duplicates(training, evaluation)
    if lines and on_duplicates == "error":
        raise ValueError(f"{training.name}: {'; '.join(lines)}. Remove them (--on_duplicates)")
    return lines
