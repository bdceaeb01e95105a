"""TFRecord shards in ImageNet's form, as ``effnet-train prepare`` writes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.labeled_images import (
    ImageRecords,
    LabeledImages,
    numbered_classes,
    pad_flat_labels,
)
from keras_effnet.datasets.tfrecord import (
    LABELS,
    Index,
    Records,
    find_shards,
    read_class_names,
    read_index,
    scan_framing,
    shard_paths,
)

SPLITS = ("train", "minival", "validation", "test")


@dataclass(frozen=True, eq=False)
class LabeledRecords:
    """Records and their labels, at least one each."""

    records: Records
    labels: np.ndarray  # int64 (labels of all records,), as stored: from 1 in ImageNet's form
    counts: np.ndarray  # int64 (records,), the number of labels of each record


@dataclass(frozen=True, eq=False)
class ShardDataset:
    """A folder of shards."""

    folder: str
    shards: Mapping[str, Sequence[str]]  # paths by split
    index: Index | None
    files: FileSystem = LOCAL
    scan: Callable | None = None  # paths -> LabeledRecords, for shards without an index

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits: those of SPLITS, then others."""
        usual = [split for split in SPLITS if split in self.shards]
        return (*usual, *(split for split in self.shards if split not in SPLITS))

    def open(self, *splits: str) -> list[LabeledImages]:
        """The images of splits.

        Class names are the lines of ``labels.txt``, or else the labels. Without an index and
        without `scan`, labels are read from the records when they are asked for, and there are no
        class names without ``labels.txt``. Raises ``ValueError`` for shards that are damaged, or
        labels that do not fit.
        """
        classes = read_class_names(self.folder, self.files)
        if self.index is None and self.scan is None:
            return [self._unscanned(split, classes) for split in splits]
        opened = [
            records_of_index(self.folder, self.index, split, self.files)
            if self.index
            else self.scan(self.shards[split])
            for split in splits
        ]
        classes = _checked_classes(self.folder, classes, opened)
        most = max(int(labeled.counts.max()) for labeled in opened)
        return [
            of_records(f"{self.folder} {split}", classes, labeled, most, self.files)
            for split, labeled in zip(splits, opened)
        ]

    def _unscanned(self, split, classes):
        paths = self.shards[split]
        records = Records.of_files(paths, [scan_framing(path, self.files) for path in paths])
        storage = ImageRecords(records, files=self.files)
        return LabeledImages(f"{self.folder} {split}", classes, storage)


def open_shards(
    data: str, files: FileSystem = LOCAL, scan: Callable | None = None
) -> ShardDataset | None:
    """The :class:`ShardDataset` of a folder of shards, or of FOLDER/SPLIT; None for other paths.

    Raises ``ValueError`` if shards are missing.
    """
    folder, only = data, None
    if not files.isdir(folder):
        folder, only = os.path.split(data.rstrip("/" + os.sep))
        folder = folder or os.curdir
        if not files.isdir(folder):
            return None
    found = find_shards(folder, files)
    if only is not None and only not in found:
        if found:
            raise ValueError(f"{folder} has no {only} shards, but {', '.join(found)} shards")
        return None
    usual = set(SPLITS) & set(found)
    chosen = {
        split: shard_paths(folder, split, shards)
        for split, shards in found.items()
        if split == only or (only is None and (split in SPLITS or not usual))
    }
    return ShardDataset(folder, chosen, read_index(folder, files), files, scan) if chosen else None


def records_of_index(
    folder: str, index: Index, split: str, files: FileSystem = LOCAL
) -> LabeledRecords:
    """The records of a split, in the order of the images they were written from."""
    entries = index.of_split(split)
    paths = [os.path.join(folder, entry["file"]) for entry in entries]
    records = Records.of_files(paths, [index.framing(path, files) for path in paths])
    order = np.argsort(np.concatenate([entry["positions"] for entry in entries]))
    labels = [row for entry in entries for row in entry["labels"]]
    labels = [labels[i] for i in order]
    return LabeledRecords(
        records.take(order),
        np.array([label for row in labels for label in row], np.int64),
        np.array([len(row) for row in labels], np.int64),
    )


def of_records(
    name: str,
    classes: Sequence[str],
    labeled: LabeledRecords,
    most: int = 0,
    files: FileSystem = LOCAL,
) -> LabeledImages:
    """:class:`LabeledImages` of records whose labels count from 1.

    `most` is the number of labels that every image is padded to; 0 for the records' maximum.
    """
    labels = pad_flat_labels(labeled.labels - 1, labeled.counts, most)
    return LabeledImages(name, tuple(classes), ImageRecords(labeled.records, files=files), labels)


def _checked_classes(folder, classes, opened):
    lowest = min(labeled.labels.min() for labeled in opened)
    highest = max(labeled.labels.max() for labeled in opened)
    if classes is None:
        classes = numbered_classes(folder, int(highest), first=1)
    if lowest < 1 or highest > len(classes):
        raise ValueError(
            f"{folder} has labels from {lowest} to {highest}, but labels count from 1 and "
            f"{LABELS} has {len(classes)} classes"
        )
    return classes
