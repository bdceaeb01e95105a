"""TFRecord shards: any record of a set of files by its number, without reading those before it.

The files have the names and keys that everybody's ImageNet has: ``train-00000-of-01024``,
``image/encoded``, ``image/class/label`` (from 1). ``effnet-train prepare`` writes an index beside
them; files without one are read through once, which takes as long as reading them does.
"""

import collections
import json
import os
import re
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.image_source import in_a_line, of_encoded, pad_labels

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
FRAMING = 16  # bytes around a record: length 8, its checksum 4; the record's checksum 4
INDEX = "index.jsonl"
ENTRY = ("file", "part", "bytes", "sha256", "positions", "offsets", "lengths", "labels")
LABELS = "labels.txt"
PARTIAL = ".partial"  # a folder that prepare has while it is not done
_EVALUATION = ("validation", "minival", "test")
_NAME = re.compile(r"(train|minival|validation|test)-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Records:
    """Where each record of some files is, and its labels: one value or more a record."""

    paths: tuple[str, ...]
    files: np.ndarray  # int32 [records], of paths
    numbers: np.ndarray  # int64 [records], records before it in its file
    offsets: np.ndarray  # int64 [records], bytes before it in its file
    lengths: np.ndarray  # int64 [records], bytes without the framing
    labels: np.ndarray  # int64 [values], as stored: from 1 in ImageNet's form
    counts: np.ndarray  # int64 [records], how many of the values are a record's

    def where(self, i):
        """The file and the number in it of record i, for messages."""
        return f"{self.paths[self.files[i]]} record {self.numbers[i]}"


def shard_sets(folder):
    """{"train": [paths], "validation": [paths], ...} of the shards in a folder, by their names.

    Empty for a folder that has none. Raises ``ValueError`` when some of a set are missing.
    """
    if tf.io.gfile.exists(os.path.join(folder, PARTIAL)) and not tf.io.gfile.exists(
        os.path.join(folder, INDEX)
    ):
        raise ValueError(
            f"{folder} is what an `effnet-train prepare` left that did not finish: give the same "
            "command again, and it goes on"
        )
    found = collections.defaultdict(dict)
    for name in tf.io.gfile.listdir(folder):
        if match := _NAME.fullmatch(name):
            part, number, of = match.groups()
            found[part, int(of)][int(number)] = os.path.join(folder, name)
    sets = {}
    for (part, of), paths in sorted(found.items()):
        if part in sets:
            raise ValueError(f"{folder} has two sets of {part} shards: keep one of them there")
        missing = [f"{part}-{n:05}-of-{of:05}" for n in range(of) if n not in paths]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {of} {part} shards ({', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}): copy or prepare them again"
            )
        sets[part] = [paths[n] for n in range(of)]
    return sets


def scan(paths, *, image_key=IMAGE_KEY, label_key=LABEL_KEY):
    """The :class:`Records` of files, read through once; every record's checksum is verified.

    Raises ``ValueError`` for a file that is truncated, damaged, empty or has other keys.
    """
    keys = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.RaggedFeature(tf.int64),
    }

    def look(records):
        own = tf.io.parse_example(records, keys)[label_key]
        return tf.strings.length(records), own.flat_values, own.row_lengths()

    scanned = []
    for path in paths:
        try:
            batches = tf.data.TFRecordDataset(path).batch(64).map(look, tf.data.AUTOTUNE)
            parts = [[part.numpy().astype(np.int64) for part in batch] for batch in batches]
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{path} has records that are no tf.train.Example with {image_key!r} (bytes) and "
                f"{label_key!r} (int64): {in_a_line(error)}"
            ) from error
        except tf.errors.DataLossError as error:
            raise ValueError(
                f"{path} is truncated or damaged ({in_a_line(error)}): copy or prepare it again"
            ) from error
        if not parts:
            raise ValueError(f"{path} has no records: copy or prepare it again")
        lengths, labels, counts = map(np.concatenate, zip(*parts))
        if 0 in counts:
            raise ValueError(f"{path} record {np.argmin(counts)} has no label in {label_key!r}")
        scanned.append((lengths, labels, counts))
    sizes = [len(lengths) for lengths, _, _ in scanned]
    return Records(
        tuple(paths),
        np.repeat(np.arange(len(paths), dtype=np.int32), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        np.concatenate([np.cumsum(n + FRAMING) - n - FRAMING for n, _, _ in scanned]),
        *map(np.concatenate, zip(*scanned)),
    )


def read_index(folder):
    """(header, entries) of the index in a folder, as prepare wrote them; None where there is none.

    An entry is a dict, one a shard: ``file``, ``part``, ``bytes``, ``sha256``, and for each record
    ``positions`` (of its image among those of the part), ``offsets``, ``lengths`` and ``labels``
    (lists, from 1).
    """
    path = os.path.join(folder, INDEX)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            header, *entries = map(json.loads, file)
        lacking = {"parts", "classes"} - header.keys()
        for entry in entries:
            lacking |= set(ENTRY) - entry.keys()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no index of `effnet-train prepare`: {error}") from error
    if lacking or not entries:
        raise ValueError(
            f"{path} is no index of `effnet-train prepare`: it lacks "
            f"{', '.join(sorted(lacking)) or 'shards'}"
        )
    return header, entries


def _check_sizes(folder, entries):
    for entry in entries:
        path = os.path.join(folder, entry["file"])
        size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else 0
        if size != entry["bytes"]:
            raise ValueError(
                f"{path} has {size:,} bytes, but {INDEX} says {entry['bytes']:,}: copy it again, "
                f"or delete {INDEX} to train on what is there"
            )


def _of_entries(folder, entries):
    """The :class:`Records` of a part, in the order of the images that they were written from."""
    order = np.argsort(np.concatenate([e["positions"] for e in entries]))
    rows = [row for e in entries for row in e["labels"]]
    rows = [rows[i] for i in order]
    sizes = [len(e["offsets"]) for e in entries]

    def ordered(key):
        return np.concatenate([e[key] for e in entries]).astype(np.int64)[order]

    return Records(
        tuple(os.path.join(folder, e["file"]) for e in entries),
        np.repeat(np.arange(len(entries), dtype=np.int32), sizes)[order],
        np.concatenate([np.arange(size) for size in sizes])[order],
        ordered("offsets"),
        ordered("lengths"),
        np.array([label for row in rows for label in row], np.int64),
        np.array([len(row) for row in rows], np.int64),
    )


def make_reader(records, image_key=IMAGE_KEY):
    """A function of a scalar index that reads a record's encoded image, in a graph.

    One seek and one read, and no Python, so that readers run side by side: a dataset of one file
    that begins at the record's offset. The record's checksum is verified (``DataLossError``).
    """
    paths = tf.constant(records.paths)
    files = tf.constant(records.files)
    offsets = tf.constant(records.offsets)
    lengths = tf.constant(records.lengths)

    def read(i):
        # tf.data.TFRecordDataset has no argument for byte_offsets; its operation has.
        behind = tf.raw_ops.TFRecordDatasetV2(
            filenames=[paths[files[i]]],
            compression_type="",
            buffer_size=lengths[i] + FRAMING,
            byte_offsets=[offsets[i]],
        )
        string = {"output_types": [tf.string], "output_shapes": [[]]}
        first = tf.raw_ops.TakeDataset(input_dataset=behind, count=1, **string)
        (record,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **string)
        keys = {image_key: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(record, keys)[image_key]

    return read


def from_shards(folder, sets):
    """(source, None), or (None, (training, evaluation)) of the `sets` in a folder.

    The evaluation set is ``validation``, else ``minival``, else ``test``. Class names are the lines
    of ``labels.txt``, or the labels. Raises ``ValueError`` when nothing can be trained on there.
    """
    index = read_index(folder)
    there = index[0]["parts"] if index else sets
    if "train" not in there:
        raise ValueError(f"{folder} has no train shards, but {', '.join(there)} ones")
    parts = ["train", *[part for part in _EVALUATION if part in there][:1]]
    if index:
        entries = {part: [e for e in index[1] if e["part"] == part] for part in parts}
        _check_sizes(folder, [entry for part in parts for entry in entries[part]])
        records = {part: _of_entries(folder, entries[part]) for part in parts}
    else:
        records = {part: scan(sets[part]) for part in parts}
    classes = _shard_classes(folder, records)
    most = max(own.counts.max() for own in records.values())
    sources = [
        of_records(f"{folder} {part}", classes, own, IMAGE_KEY, 1, most=most)
        for part, own in records.items()
    ]
    return (None, tuple(sources)) if len(sources) == 2 else (sources[0], None)


def _shard_classes(folder, records):
    lowest = min(own.labels.min() for own in records.values())
    highest = max(own.labels.max() for own in records.values())
    path = os.path.join(folder, LABELS)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            classes = file.read().splitlines()
        if len(set(classes)) < len(classes) or "" in classes:
            raise ValueError(f"{path} has a name twice or an empty line: it needs a class a line")
    else:
        classes = [str(n) for n in range(1, highest + 1)]
    if lowest < 1 or highest > len(classes):
        raise ValueError(
            f"{folder} has labels from {lowest} to {highest}, but they count from 1 and "
            f"{LABELS} names {len(classes)} classes"
        )
    if len(classes) < 2:
        raise ValueError(f"{folder} has one class only ({classes[0]}); it needs two at least")
    return classes


def of_records(name, classes, records, image_key, first_label, *, most):
    """A :class:`tpu_train.input_pipeline.image_source.Source` of records; their labels count from `first_label`."""
    labels = pad_labels(records.labels - first_label, records.counts, most)
    return of_encoded(name, classes, labels, make_reader(records, image_key), records.where)
