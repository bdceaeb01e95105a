"""Writes labeled images as TFRecord shards in ImageNet's form, with an index and checksums.

Every image is decoded before it is written, and again from the written file. An interrupted run
resumes at the first incomplete shard and ends with the same bytes: which image is in which record
depends only on the input and the seed. The index is written last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_effnet.datasets.tfrecord import (
    FRAMING,
    IMAGE_KEY,
    INDEX,
    LABEL_KEY,
    LABELS,
    PARTIAL,
    Index,
    read_index,
)
from keras_effnet.image_decoding import HEAD_BYTES, image_format
from keras_effnet.label_file import format_labels, parse_labels
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.image_source import ImageSource, decode_all, too_many_corrupt
from tpu_train.input_pipeline.tfrecord import scan
from tpu_train.input_pipeline.tfrecord_verification import corrupt_images
from tpu_train.remote_files import GFILE, read_file, sha256, write_file

IMAGES_PER_SHARD = 1250  # ImageNet's: 1,281,167 images in 1,024 shards
_PLAN = "plan.json"


class PrepareError(RuntimeError):
    """Shards could not be written or read back; the message has the solution."""


@dataclass(frozen=True)
class WriterOptions:
    """How :func:`write_shards` divides the images into splits and shards."""

    shard_count: int = 0  # of train; 0: one for every 1,250 images
    minival: float = 0  # images taken out of train: a fraction below 1, or a number
    holdout: float = 0.2  # fraction of each class for validation, if the data has none
    seed: int = 0
    max_corrupt: int = 10  # images that may be undecodable and are skipped


@dataclass(frozen=True)
class WrittenShards:
    """The content of a folder of shards, and the part of it that this run wrote."""

    folder: str
    images: dict[str, int]  # by split
    shards: dict[str, int]  # number of shards by split
    sizes: dict[str, int]  # bytes by split
    classes: tuple[str, ...]
    skipped: tuple[str, ...]  # images that could not be decoded
    notes: tuple[str, ...]  # what else of the data is not used
    written: int  # images of this run; the other shards existed already
    seconds: float


@dataclass(frozen=True)
class _Shard:
    name: str
    split: str
    positions: np.ndarray  # of its images in the split's source, in the order of the records


def write_shards(
    data: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    options: WriterOptions = WriterOptions(),
    *,
    stream: TextIO | None = None,
) -> WrittenShards:
    """Writes the images that `open_data` reads as shards into `folder`, or resumes writing them.

    The splits are ``train``, ``validation`` (the evaluation set of the data, or the held-out
    fraction) and ``minival``. Records are in a shuffled order, for readers that cannot shuffle; the
    index restores the order of the input, so training on the shards is bit-identical to training on
    `data` (without a minival). `stream` shows the progress (default: standard error).

    Raises ``ValueError`` for input that cannot be prepared or a `folder` with other content, and
    :class:`PrepareError` if the disk is full or returns other bytes than were written.
    """
    folder = os.fspath(folder)
    began = time.monotonic()
    training, evaluation = open_data(
        data, holdout=options.holdout, seed=options.seed, max_corrupt=options.max_corrupt
    )
    splits = _make_splits(training, evaluation, options)
    layout = _make_layout(splits, options)
    plan = _make_plan(splits, layout, options.seed)
    skipped = list(dict.fromkeys([*training.skipped, *evaluation.skipped]))
    notes = tuple(dict.fromkeys([*training.notes, *evaluation.notes]))
    if _is_complete(folder, plan):
        index = read_index(folder, GFILE)
        return _summarize(folder, index, skipped, notes, 0, time.monotonic() - began)
    partial = _begin(folder, plan)
    entries, written = [], 0
    total = sum(source.examples for source in splits.values())
    with tqdm(
        total=total, unit=" images", unit_scale=True, desc="prepare", file=stream
    ) as progress:
        for shard in layout:
            entry = _existing_entry(folder, shard.name)
            if entry is None:
                already = skipped + [name for e in entries for name in e["skipped"]]
                entry = _write_shard(
                    folder, shard, splits[shard.split], already, options.max_corrupt, progress
                )
                written += len(entry["positions"])
            else:
                progress.update(len(shard.positions))
            entries.append(entry)
    lines = [json.dumps(line) for line in (plan, *entries)]
    with _disk_errors(folder):
        write_file(os.path.join(folder, INDEX), "".join(f"{line}\n" for line in lines).encode())
    tf.io.gfile.rmtree(partial)
    seconds = time.monotonic() - began
    return _summarize(folder, read_index(folder, GFILE), skipped, notes, written, seconds)


def summary(result: WrittenShards) -> str:
    """A description of the written shards, of several lines."""
    lines = [f"{result.folder}: {len(result.classes)} classes"]
    for split, images in result.images.items():
        lines.append(
            f"  {split:<12}{images:>12,} images{result.shards[split]:>7,} shards"
            f"{result.sizes[split] / 1e6:>12,.1f} MB"
        )
    for name in result.skipped:
        lines.append(f"  skipped, cannot be decoded: {name}")
    lines += [f"  {note}" for note in result.notes]
    if result.written:
        lines.append(
            f"{result.written:,} images written and verified in {result.seconds:.0f} s "
            f"({result.written / result.seconds:,.0f} images/s)"
        )
    else:
        lines.append("The shards were complete already; nothing was written")
    lines.append(f"Train on them: effnet-train --data={result.folder} --workdir=run1")
    return "\n".join(lines)


def _make_splits(training, evaluation, options):
    """{split: source}; the minival is drawn from the training images."""
    names = format_labels(training.classes)
    try:
        if parse_labels(names, training.name) != training.classes:
            raise ValueError("class names must be single lines without surrounding spaces")
    except ValueError as error:
        raise ValueError(
            f"{training.name} has class names that a label file cannot hold: {error}"
        ) from error
    minival, examples = options.minival, training.examples
    if not minival:
        return {"train": training, **({"validation": evaluation} if evaluation.examples else {})}
    count = round(minival * examples) if minival < 1 else int(minival)
    if minival < 0 or (minival >= 1 and count != minival) or not 0 < count < examples:
        raise ValueError(
            f"minival {minival} of {examples:,} training images: give a fraction below 1 or a "
            "number of images that leaves some for training"
        )
    shuffled = np.random.default_rng([options.seed, 1]).permutation(examples)
    return {
        "train": training.take(np.sort(shuffled[count:])),
        "minival": training.take(np.sort(shuffled[:count])),
        "validation": evaluation,
    }


def _make_layout(splits, options):
    """The :class:`_Shard` of every file."""
    examples = splits["train"].examples
    if not 0 <= options.shard_count <= examples:
        raise ValueError(
            f"{options.shard_count} shards for {examples:,} training images: give 1 to {examples}, "
            f"or 0 for one every {IMAGES_PER_SHARD:,} images"
        )
    per_shard = examples / options.shard_count if options.shard_count else IMAGES_PER_SHARD
    layout = []
    for number, (split, source) in enumerate(splits.items()):
        count = max(1, round(source.examples / per_shard))
        order = np.random.default_rng([options.seed, 2, number]).permutation(source.examples)
        for n in range(count):
            layout.append(_Shard(f"{split}-{n:05}-of-{count:05}", split, order[n::count]))
    return layout


def _make_plan(splits, layout, seed):
    """Everything that the bytes of the shards depend on: the first line of the index."""
    images = hashlib.sha256()
    for source in splits.values():
        images.update(source.labels.tobytes())
        for i in range(source.examples):
            images.update(_file_name(source, i).encode() + b"\n")
    return {
        "splits": {split: source.examples for split, source in splits.items()},
        "shards": {split: sum(shard.split == split for shard in layout) for split in splits},
        "classes": list(splits["train"].classes),
        "seed": seed,
        "images": images.hexdigest(),
    }


def _file_name(source: ImageSource, i):
    """The name of an image relative to its data, so that moved data gives the same bytes."""
    name = source.where(i)
    root = source.name.rstrip("/") + "/"
    if name.startswith(root):
        return name[len(root) :]
    return os.path.basename(name) if os.path.isabs(name) or "://" in name else name


def _is_complete(folder, plan):
    """Whether the folder has exactly these shards; ``ValueError`` if it has other content."""
    if not tf.io.gfile.isdir(folder):
        return False
    names = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    partial = os.path.join(folder, PARTIAL)
    if INDEX in names:
        if read_index(folder, GFILE).header != plan:
            raise ValueError(
                f"{folder} has other data, or the same data with other flags: choose another folder"
            )
        if PARTIAL in names:  # interrupted between the last two steps
            tf.io.gfile.rmtree(partial)
        return True
    plan_path = os.path.join(partial, _PLAN)
    if tf.io.gfile.exists(plan_path):
        if json.loads(read_file(plan_path)) != plan:
            raise ValueError(
                f"{folder} has incomplete shards of other data, or of the same data with other "
                "flags: resume with the original flags, or choose another folder"
            )
    elif names - {PARTIAL}:
        raise ValueError(f"{folder} is not empty: choose another folder")
    return False


def _begin(folder, plan):
    partial = os.path.join(folder, PARTIAL)
    tf.io.gfile.makedirs(partial)
    with _disk_errors(folder):
        write_file(os.path.join(partial, _PLAN), json.dumps(plan).encode())
        write_file(os.path.join(folder, LABELS), format_labels(plan["classes"]))
    return partial


def _existing_entry(folder, name):
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


def _write_shard(folder, shard, source, skipped, max_corrupt, progress):
    """Writes a shard to a temporary file, verifies it and moves it into place.

    Returns its index entry, which it also writes. `skipped` has the images skipped so far.
    """
    temporary = os.path.join(folder, PARTIAL, shard.name)
    entry = {"file": shard.name, "split": shard.split, "bytes": 0, "sha256": ""}
    entry.update({"positions": [], "offsets": [], "lengths": [], "labels": [], "skipped": []})
    with _disk_errors(folder, temporary), tf.io.TFRecordWriter(temporary) as writer:
        for position, encoded, size, error in decode_all(source, shard.positions):
            progress.update()
            name = _file_name(source, position)
            if error is not None:
                entry["skipped"].append(name)
                if len(skipped + entry["skipped"]) > max_corrupt:
                    raise too_many_corrupt(max_corrupt, skipped + entry["skipped"], error)
                continue
            labels = [int(n) + 1 for n in np.atleast_1d(source.labels[position]) if n >= 0]
            example = _make_example(encoded, size, labels, source.classes, name)
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            entry["positions"].append(position)
            entry["offsets"].append(entry["bytes"])
            entry["lengths"].append(len(record))
            entry["labels"].append(labels)
            entry["bytes"] += len(record) + FRAMING
    if not entry["positions"]:
        raise ValueError(
            f"none of the {len(shard.positions)} images of {shard.name} can be decoded"
        )
    _verify(temporary, entry)
    entry["sha256"] = sha256(temporary)
    tf.io.gfile.rename(temporary, os.path.join(folder, shard.name), overwrite=True)
    with _disk_errors(folder):
        write_file(os.path.join(folder, PARTIAL, f"{shard.name}.json"), json.dumps(entry).encode())
    return entry


def _make_example(encoded, size, labels, classes, file_name):
    def of_bytes(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        IMAGE_KEY: of_bytes([encoded]),
        "image/format": of_bytes([(image_format(encoded[:HEAD_BYTES]) or "").encode()]),
        "image/filename": of_bytes([file_name.encode()]),
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
def _disk_errors(folder, temporary=None):
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


def _summarize(folder, index: Index, skipped, notes, written, seconds):
    entries = {split: index.of_split(split) for split in index.header["splits"]}
    return WrittenShards(
        folder,
        {split: sum(len(e["positions"]) for e in some) for split, some in entries.items()},
        {split: len(some) for split, some in entries.items()},
        {split: sum(e["bytes"] for e in some) for split, some in entries.items()},
        tuple(index.header["classes"]),
        tuple(skipped + [name for e in index.entries for name in e["skipped"]]),
        notes,
        written,
        seconds,
    )
