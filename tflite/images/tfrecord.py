"""Encoded images of TFRecord files by index, without TensorFlow.

Reads folders of shards in ImageNet's form, as ``effnet-train prepare`` writes them, and TensorFlow
Datasets. Only the requested records are read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from keras_effnet.datasets import tfds
from keras_effnet.datasets.tf_example import parse_example
from keras_effnet.datasets.tfrecord import (
    IMAGE_KEY,
    LABEL_KEY,
    Records,
    find_shards,
    read_class_names,
    read_index,
    scan_framing,
    shard_paths,
)


@dataclass(frozen=True, eq=False)
class RecordSet:
    """The records of some files, with the keys of their images and labels."""

    name: str  # for messages: "shards train", "tfds:cifar10/test"
    records: Records
    image_key: str
    label_key: str
    first_label: int  # 1 in ImageNet's form, 0 in TensorFlow Datasets
    class_names: tuple[str, ...] | None

    def __len__(self):
        return len(self.records)

    def where(self, i: int) -> str:
        """The file name of record `i` and its number in the file."""
        return os.path.basename(self.records.where(i))

    def read(self, i: int) -> tuple[bytes, int | None]:
        """(encoded image, label) of record `i`: a label from 0, or None for several labels.

        Raises ``ValueError`` for a damaged record, or one without such an image and label.
        """
        where = self.records.where(i)
        record = self.records.read(i)
        try:
            features = parse_example(record)
        except ValueError as error:
            raise ValueError(f"{where} is not a tf.train.Example: {error}") from error
        images = _values(features, self.image_key, "bytes", where)
        if len(images) != 1:
            raise ValueError(f"{where} has {len(images)} images in {self.image_key!r}; expected 1")
        labels = _values(features, self.label_key, "int64", where)
        if min(labels) < self.first_label:
            raise ValueError(
                f"{where} has the label {min(labels)}, but labels count from {self.first_label} in "
                f"{self.label_key!r}"
            )
        return images[0], labels[0] - self.first_label if len(labels) == 1 else None


def _values(features, key, kind, where):
    actual_kind, values = features.get(key, ("", ()))
    if actual_kind != kind or not values:
        keys = ", ".join(f"{name!r} ({kind or 'empty'})" for name, (kind, _) in features.items())
        raise ValueError(f"{where} has no {key!r} ({kind}); its keys are {keys or 'none'}")
    return values


def exists(source: str) -> bool:
    """Whether ``load_images`` can try `source`: a path, FOLDER/SPLIT, or any tfds:NAME."""
    return source.startswith(tfds.PREFIX) or os.path.exists(source) or bool(_splits(source)[1])


def open_records(source: str) -> RecordSet | None:
    """The :class:`RecordSet` of a folder of shards, FOLDER/SPLIT, or tfds:NAME[/SPLIT].

    Without a split it is ``train``, or the only one of a folder. None for any other source. Raises
    ``ValueError`` for missing shards and for truncated or damaged files.
    """
    if source.startswith(tfds.PREFIX):
        return _from_tfds(source)
    if os.path.isfile(source):
        return None
    folder, splits, split = _splits(source)
    if not splits:
        return None
    if split is None:
        split = "train" if "train" in splits else next(iter(splits))
        if split != "train" and len(splits) > 1:
            raise ValueError(
                f"{folder} has the splits {', '.join(splits)}: choose one, e.g. "
                f"{os.path.join(folder, split)}"
            )
    if split not in splits:
        raise ValueError(f"{folder} has no {split} shards, but {', '.join(splits)} shards")
    paths = shard_paths(folder, split, splits[split])
    index = read_index(folder)
    framings = [index.framing(path) if index else scan_framing(path) for path in paths]
    records = Records.of_files(paths, framings)
    names = read_class_names(folder)
    return RecordSet(f"{folder} {split}", records, IMAGE_KEY, LABEL_KEY, 1, names)


def _splits(source):
    """(folder, shards by split, split that `source` names or None)."""
    folder, split = source, None
    if not os.path.isdir(source):
        folder, split = os.path.split(source.rstrip("/" + os.sep))
        folder = folder or os.curdir
    return folder, find_shards(folder) if os.path.isdir(folder) else {}, split


def _from_tfds(source):
    dataset = tfds.open_tfds(source)
    split = dataset.named_split or "train"
    if split not in dataset.splits:
        raise ValueError(f"{source} has no split {split!r}, but {', '.join(dataset.splits)}")
    (images,) = dataset.open(split)
    name = source if dataset.named_split else f"{source}/train"
    records, keys = images.storage.records, (dataset.image_key, dataset.label_key)
    return RecordSet(name, records, *keys, 0, dataset.class_names)
