"""TFRecord files in a TensorFlow graph: every record is read by index.

``effnet-train prepare`` writes an index beside its shards. Files without an index are scanned once
when they are opened, which takes as long as reading them. Framing, shard names and the index:
:mod:`keras_effnet.datasets.tfrecord`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.shards import LabeledRecords
from keras_effnet.datasets.tfrecord import (
    FRAMING,
    IMAGE_KEY,
    LABEL_KEY,
    SCORES_KEY,
    Records,
    empty_file,
)
from tpu_train.input_pipeline.image_source import error_line


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


def make_reader(records: Records, image_key: str = IMAGE_KEY, scores: int = 0) -> Callable:
    """A function from a scalar index to the encoded image of that record, in a graph.

    With `scores`, to the image and that number of scores, float32, of a pseudo-labeled record.

    It costs one seek and one read and runs no Python, so readers run in parallel: a data set of one
    file that starts at the record's offset. The record's checksum is verified (``DataLossError``).
    """
    paths = tf.constant([os.fsencode(path) for path in records.paths])
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
        if not scores:
            return tf.io.parse_single_example(record, features)[image_key]
        features[SCORES_KEY] = tf.io.FixedLenFeature([scores], tf.float32)
        parsed = tf.io.parse_single_example(record, features)
        return parsed[image_key], parsed[SCORES_KEY]

    return read
