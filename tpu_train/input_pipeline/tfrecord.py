"""TFRecord shards as a source of images: every record is read by index, in a TensorFlow graph.

``effnet-train prepare`` writes an index beside its shards. Files without an index are scanned once
when they are opened, which takes as long as reading them. Framing, shard names and the index:
:mod:`keras_effnet.tfrecord`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_effnet.tfrecord import (
    FRAMING,
    IMAGE_KEY,
    LABEL_KEY,
    LABELS,
    Records,
    empty_file,
    find_shards,
    read_class_names,
    read_index,
    shard_paths,
)
from tpu_train.input_pipeline.image_source import ImageSource, error_line, of_encoded, pad_labels
from tpu_train.remote_files import GFILE

_SPLITS = ("train", "minival", "validation", "test")
_EVALUATION = ("validation", "minival", "test")


@dataclass(frozen=True, eq=False)
class LabeledRecords:
    """Records and their labels, at least one each."""

    records: Records
    labels: np.ndarray  # int64 (labels of all records,), as stored: from 1 in ImageNet's form
    counts: np.ndarray  # int64 (records,), the number of labels of each record


def shard_sets(folder: str) -> dict[str, list[str]]:
    """{"train": paths, "validation": paths, ...} of the shards in a folder; empty if it has none.

    Raises ``ValueError`` if shards are missing.
    """
    splits = find_shards(folder, GFILE)
    return {
        split: shard_paths(folder, split, shards)
        for split, shards in splits.items()
        if split in _SPLITS
    }


def scan(
    paths: Sequence[str], *, image_key: str = IMAGE_KEY, label_key: str = LABEL_KEY
) -> LabeledRecords:
    """The records of files, read from start to end; every checksum is verified.

    Raises ``ValueError`` for a file that is truncated, damaged, empty or has other keys.
    """
    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.RaggedFeature(tf.int64),
    }

    def parse(records):
        labels = tf.io.parse_example(records, features)[label_key]
        return tf.strings.length(records), labels.flat_values, labels.row_lengths()

    scanned = []
    for path in paths:
        try:
            batches = tf.data.TFRecordDataset(path).batch(64).map(parse, tf.data.AUTOTUNE)
            columns = [[column.numpy().astype(np.int64) for column in batch] for batch in batches]
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{path} has records that are not tf.train.Examples with {image_key!r} (bytes) and "
                f"{label_key!r} (int64): {error_line(error)}"
            ) from error
        except tf.errors.DataLossError as error:
            raise ValueError(
                f"{path} is truncated or damaged ({error_line(error)}): copy or prepare it again"
            ) from error
        if not columns:
            raise empty_file(path)
        lengths, labels, counts = map(np.concatenate, zip(*columns))
        if 0 in counts:
            raise ValueError(f"{path} record {np.argmin(counts)} has no label in {label_key!r}")
        scanned.append((lengths, labels, counts))
    framings = [
        (np.cumsum(lengths + FRAMING) - lengths - FRAMING, lengths) for lengths, _, _ in scanned
    ]
    _, labels, counts = map(np.concatenate, zip(*scanned))
    return LabeledRecords(Records.of_files(paths, framings), labels, counts)


def _from_index(folder, index, split):
    """The :class:`LabeledRecords` of a split, in the order of the images they were written from."""
    entries = index.of_split(split)
    paths = [os.path.join(folder, entry["file"]) for entry in entries]
    records = Records.of_files(paths, [index.framing(path, GFILE) for path in paths])
    order = np.argsort(np.concatenate([entry["positions"] for entry in entries]))
    labels = [row for entry in entries for row in entry["labels"]]
    labels = [labels[i] for i in order]
    return LabeledRecords(
        records.take(order),
        np.array([label for row in labels for label in row], np.int64),
        np.array([len(row) for row in labels], np.int64),
    )


def make_reader(records: Records, image_key: str = IMAGE_KEY) -> Callable:
    """A function from a scalar index to the encoded image of that record, in a graph.

    It costs one seek and one read and runs no Python, so readers run in parallel: a data set of one
    file that starts at the record's offset. The record's checksum is verified (``DataLossError``).
    """
    paths = tf.constant(records.paths)
    files = tf.constant(records.files)
    offsets = tf.constant(records.offsets)
    lengths = tf.constant(records.lengths)

    def read(i):
        # tf.data.TFRecordDataset has no argument for byte_offsets; its operation has.
        from_offset = tf.raw_ops.TFRecordDatasetV2(
            filenames=[paths[files[i]]],
            compression_type="",
            buffer_size=lengths[i] + FRAMING,
            byte_offsets=[offsets[i]],
        )
        string = {"output_types": [tf.string], "output_shapes": [[]]}
        first = tf.raw_ops.TakeDataset(input_dataset=from_offset, count=1, **string)
        (record,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **string)
        features = {image_key: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(record, features)[image_key]

    return read


def from_shards(
    folder: str, shards: dict[str, list[str]]
) -> tuple[ImageSource | None, tuple[ImageSource, ImageSource] | None]:
    """(source, None), or (None, (training, evaluation)) of the `shards` by split in a folder.

    The evaluation split is ``validation``, else ``minival``, else ``test``. Class names are the
    lines of ``labels.txt``, or the labels. Raises ``ValueError`` for shards that cannot be trained
    on.
    """
    index = read_index(folder, GFILE)
    available = index.header["splits"] if index else shards
    if "train" not in available:
        raise ValueError(f"{folder} has no train shards, but {', '.join(available)} shards")
    splits = ["train", *[split for split in _EVALUATION if split in available][:1]]
    records = {
        split: _from_index(folder, index, split) if index else scan(shards[split])
        for split in splits
    }
    classes = _class_names(folder, records)
    most = max(labeled.counts.max() for labeled in records.values())
    sources = [
        of_records(f"{folder} {split}", classes, labeled, IMAGE_KEY, 1, most=most)
        for split, labeled in records.items()
    ]
    return (None, tuple(sources)) if len(sources) == 2 else (sources[0], None)


def _class_names(folder, records):
    lowest = min(labeled.labels.min() for labeled in records.values())
    highest = max(labeled.labels.max() for labeled in records.values())
    classes = read_class_names(folder, GFILE)
    if classes is None:
        classes = [str(n) for n in range(1, highest + 1)]
    if lowest < 1 or highest > len(classes):
        raise ValueError(
            f"{folder} has labels from {lowest} to {highest}, but labels count from 1 and "
            f"{LABELS} has {len(classes)} classes"
        )
    if len(classes) < 2:
        raise ValueError(f"{folder} has only one class ({classes[0]}); training needs at least two")
    return classes


def of_records(
    name: str,
    classes: Sequence[str],
    labeled: LabeledRecords,
    image_key: str,
    first_label: int,
    *,
    most: int = 0,
) -> ImageSource:
    """The :class:`ImageSource` of records whose labels count from `first_label`.

    `most` is the number of labels that every image is padded to; 0 for the records' maximum.
    """
    labels = pad_labels(
        labeled.labels - first_label, labeled.counts, most or int(labeled.counts.max())
    )
    read = make_reader(labeled.records, image_key)
    return of_encoded(name, classes, labels, read, labeled.records.where)
