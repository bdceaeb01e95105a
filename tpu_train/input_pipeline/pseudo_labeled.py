"""Opens pseudo-labeled images: the shards of ``effnet-train pseudo-label``.

A record has the teacher's scores in ``image/class/scores``, in the order of ``labels.txt``. The
index has for every record how often an epoch has its image, and a hash of the image by which it is
found in other data.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.duplicates import content_digest
from keras_effnet.datasets.shards import records_of_index
from keras_effnet.datasets.splits import some
from keras_effnet.datasets.tfrecord import INDEX, PARTIAL, Index, read_class_names, read_index
from keras_effnet.evaluation.class_matching import match_classes
from tpu_train.input_pipeline.image_source import ImageSource, of_encoded
from tpu_train.input_pipeline.tfrecord import make_reader
from tpu_train.input_pipeline.tfrecord_shard import COPIES, DIGESTS
from tpu_train.remote_files import GFILE, sha256

SPLIT = "unlabeled"


def open_pseudo_labels(
    folder: str | os.PathLike[str], classes: Sequence[str], held_out: Sequence[ImageSource] = ()
) -> ImageSource:
    """The pseudo-labeled images of a folder, with labels and scores in the order of `classes`.

    An image occurs as often as its record states. Images that `held_out` has, too, are left out
    and named in the notes. Raises ``ValueError`` for another folder, other classes, or if no image
    is left.
    """
    folder = os.fspath(folder)
    index = _read_index(folder)
    labeled = records_of_index(folder, index, SPLIT, GFILE)
    outputs = _match(folder, classes)
    read_record = make_reader(labeled.records, scores=len(outputs))

    def read_scored(i):
        image, scores = read_record(i)
        return image, tf.gather(scores, outputs)

    labels = np.argsort(outputs)[labeled.labels - 1].astype(np.int32)
    source = of_encoded(folder, classes, labels, lambda i: read_scored(i)[0], labeled.records.where)
    source = dataclasses.replace(
        source, read_scored=read_scored, fingerprint=sha256(os.path.join(folder, INDEX))
    )
    copies, digests = (np.array(column) for column in _columns(index))
    leaks, notes = _find_leaks(digests, held_out)
    copies[leaks] = 0
    if not copies.any():
        raise ValueError(f"{folder}: all of its images are evaluation images, too")
    repeated = source.take(np.repeat(np.arange(source.examples), copies))
    return dataclasses.replace(repeated, notes=notes)


def image_digests(source: ImageSource) -> Iterator[str]:
    """Yields the hash of every encoded image of a source; pixels are encoded as PNG."""

    def read(i):
        stored = source.read(i)
        return stored if stored.dtype == tf.string else tf.io.encode_png(stored)

    data = tf.data.Dataset.range(source.examples).map(read, tf.data.AUTOTUNE, deterministic=True)
    for encoded in data.as_numpy_iterator():
        yield content_digest(encoded)


def _read_index(folder) -> Index:
    how = f"give the --out of effnet-train pseudo-label, not {folder!r}"
    if not GFILE.isdir(folder):
        raise ValueError(f"unlabeled {folder!r} is not a folder: {how}")
    if PARTIAL in {name.rstrip("/") for name in GFILE.listdir(folder)}:
        raise ValueError(
            f"unlabeled {folder!r} is an incomplete output of effnet-train pseudo-label: rerun the "
            "same command to resume"
        )
    index = read_index(folder, GFILE)
    entries = index.of_split(SPLIT) if index else []
    if not entries or not all(DIGESTS in entry for entry in entries):
        raise ValueError(
            f"unlabeled {folder!r} has no pseudo-labels: label the images first (effnet-train "
            f"pseudo-label --model=teacher.keras --data={folder} --out=shards)"
        )
    return index


def _match(folder, classes):
    """The score of every class in the records."""
    names = read_class_names(folder, GFILE)
    if names is None or len(names) != len(classes):
        raise ValueError(
            f"unlabeled {folder!r} has pseudo-labels of {len(names or ())} classes, and the "
            f"labeled data have {len(classes)}: use a teacher of the same classes"
        )
    try:
        return match_classes(classes, len(names), names).outputs
    except ValueError as error:
        raise ValueError(f"unlabeled {folder!r} has other classes: {error}") from error


def _columns(index):
    """Copies and digests of all records, in the order of records_of_index."""
    entries = index.of_split(SPLIT)
    order = np.argsort(np.concatenate([entry["positions"] for entry in entries]))
    for key in (COPIES, DIGESTS):
        values = [value for entry in entries for value in entry[key]]
        yield [values[i] for i in order]


def _find_leaks(digests, held_out):
    """(indices of the images that evaluation has, too, a note that names them)."""
    names = {d: s.where(i) for s in held_out for i, d in enumerate(image_digests(s))}
    leaks = [i for i, digest in enumerate(digests) if digest in names]
    if not leaks:
        return leaks, ()
    named = some([names[digests[i]] for i in leaks])
    return leaks, (
        f"left out {len(leaks):,} pseudo-labeled images that are evaluation images, too: {named}",
    )
