"""Writes one TFRecord shard of labeled images, and verifies it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.duplicates import content_digest
from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.datasets.tfrecord import FRAMING, IMAGE_KEY, LABEL_KEY, PARTIAL, SCORES_KEY
from keras_effnet.datasets.undecodable import too_many_undecodable
from keras_effnet.image_decoding import HEAD_BYTES, image_format
from tpu_train.input_pipeline.data_loading import of_images
from tpu_train.input_pipeline.image_source import decode_all
from tpu_train.input_pipeline.tfrecord import scan
from tpu_train.input_pipeline.tfrecord_verification import corrupt_images
from tpu_train.remote_files import read_file, sha256, write_file

COPIES, DIGESTS = "copies", "digests"  # in an entry of pseudo-labeled images, for each record


class PrepareError(RuntimeError):
    """Shards could not be written or read back; the message has the solution."""


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: a value that any process or machine can write the same bytes of."""

    folder: str
    name: str
    split: str
    positions: np.ndarray  # of its images in the split, in the order of the records
    images: LabeledImages  # its images, in this order
    # of pseudo-labeled images, for each: float32 (images, classes), and its number in an epoch
    scores: np.ndarray | None = None
    copies: np.ndarray | None = None

    def file_name(self, i: int) -> str:
        """The name of its image `i` relative to the data, so that moved data give equal bytes."""
        return file_name(self.images, i)


def file_name(images: LabeledImages, i: int) -> str:
    """The name of an image relative to its data."""
    name = images.where(i)
    root = images.name.rstrip("/") + "/"
    if name.startswith(root):
        return name[len(root) :]
    return os.path.basename(name) if os.path.isabs(name) or "://" in name else name


def existing_entry(folder, name):
    """The index entry of a shard that an earlier run wrote, if the shard is unchanged."""
    path = os.path.join(folder, name)
    entry_path = os.path.join(folder, PARTIAL, f"{name}.json")
    if not tf.io.gfile.exists(entry_path) or not tf.io.gfile.exists(path):
        return None
    try:
        entry = json.loads(read_file(entry_path))
    except json.JSONDecodeError:  # incomplete, by a power failure
        return None
    return entry if sha256(path) == entry["sha256"] else None


def write_shard(
    plan: ShardPlan,
    max_corrupt: int,
    skipped: Sequence[str] = (),
    advance: Callable[[], object] = lambda: None,
) -> dict:
    """Writes a shard to a temporary file, verifies it and moves it into place.

    Returns its index entry, which it also writes. `skipped` has the images skipped in other shards;
    `advance` is called after each image. Raises ``ValueError`` for more than `max_corrupt` skipped
    images, and :class:`PrepareError` if the file cannot be written and read back.
    """
    temporary = os.path.join(plan.folder, PARTIAL, plan.name)
    source, skipped = of_images(plan.images), list(skipped)
    entry = {"file": plan.name, "split": plan.split, "bytes": 0, "sha256": ""}
    entry.update({"positions": [], "offsets": [], "lengths": [], "labels": [], "skipped": []})
    if plan.scores is not None:
        entry.update({COPIES: [], DIGESTS: []})
    with disk_errors(plan.folder, temporary), tf.io.TFRecordWriter(temporary) as writer:
        for i, encoded, size, error in decode_all(source, range(len(plan.positions))):
            advance()
            name = plan.file_name(i)
            if error is not None:
                entry["skipped"].append(name)
                if len(skipped + entry["skipped"]) > max_corrupt:
                    raise too_many_undecodable(max_corrupt, skipped + entry["skipped"], error)
                continue
            labels = [label + 1 for label in plan.images.labels_of(i)]
            example = _make_example(encoded, size, labels, source.classes, name)
            if plan.scores is not None:
                scores = example.features.feature[SCORES_KEY].float_list.value
                scores.extend(plan.scores[i].tolist())
                entry[COPIES].append(int(plan.copies[i]))
                entry[DIGESTS].append(content_digest(encoded))
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            entry["positions"].append(int(plan.positions[i]))
            entry["offsets"].append(entry["bytes"])
            entry["lengths"].append(len(record))
            entry["labels"].append(labels)
            entry["bytes"] += len(record) + FRAMING
    if not entry["positions"]:
        raise ValueError(f"none of the {len(plan.positions)} images of {plan.name} can be decoded")
    _verify(temporary, entry)
    entry["sha256"] = sha256(temporary)
    tf.io.gfile.rename(temporary, os.path.join(plan.folder, plan.name), overwrite=True)
    path = os.path.join(plan.folder, PARTIAL, f"{plan.name}.json")
    with disk_errors(plan.folder):
        write_file(path, json.dumps(entry).encode())
    return entry


def _make_example(encoded, size, labels, classes, file_name):
    def of_bytes(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        IMAGE_KEY: of_bytes([encoded]),
        "image/format": of_bytes([(image_format(encoded[:HEAD_BYTES]) or "").encode()]),
        "image/filename": of_bytes([os.fsencode(file_name)]),
        "image/height": of_ints([size[0]]),
        "image/width": of_ints([size[1]]),
        LABEL_KEY: of_ints(labels),
        "image/class/text": of_bytes([classes[n - 1].encode() for n in labels]),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def _verify(path, entry):
    """Reads a shard back and compares it with its entry; removes it and raises if it differs."""
    try:
        labeled = scan([path])
        problems = corrupt_images(labeled)
    except ValueError as error:
        problems = [str(error)]
    if not problems and not (
        labeled.records.offsets.tolist() == entry["offsets"]
        and labeled.records.lengths.tolist() == entry["lengths"]
        and labeled.labels.tolist() == [label for row in entry["labels"] for label in row]
    ):
        problems = [f"{path} has other records than were written"]
    if problems:
        tf.io.gfile.remove(path)
        raise PrepareError(
            f"{problems[0]}. The file returns other bytes than were written: check the disk, then "
            "rerun the same command to resume"
        )


@contextlib.contextmanager
def disk_errors(folder, temporary=None):
    """Raises :class:`PrepareError` for a failed write; removes the temporary file on any error."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if temporary is not None:
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(temporary)
        if not isinstance(error, (OSError, tf.errors.OpError)):
            raise
        is_full = getattr(error, "errno", None) == errno.ENOSPC or isinstance(
            error, tf.errors.ResourceExhaustedError
        )
        raise PrepareError(
            f"cannot write to {folder}: {'the disk is full' if is_full else error}. Free some "
            "space, then rerun the same command to resume"
        ) from error
