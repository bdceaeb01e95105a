"""Labelled images of any kind -> TFRecord shards in ImageNet's form, with an index and checksums.

Every image is decoded before it is written, and again from what was written. A run that was cut
goes on with the first shard that is not whole, and ends with the same bytes: which image goes into
which record follows from the input and the seed alone. The index is the last thing to appear.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tpu_train.input_pipeline import tfrecord
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.image_source import corrupt, looked_at, too_many

IMAGES_PER_SHARD = 1250  # ImageNet's: 1,281,167 images in 1,024 shards
_PLAN = "plan.json"
_FORMATS = ((b"\xff\xd8\xff", b"JPEG"), (b"\x89PNG", b"PNG"), (b"GIF8", b"GIF"), (b"BM", b"BMP"))


class PrepareError(RuntimeError):
    """Shards that could not be written, or not be read back, with what to do."""


@dataclass(frozen=True)
class Prepared:
    """What lies in a folder of shards, and what this run did for it."""

    folder: str
    images: dict  # of each part
    shards: dict  # how many of each part
    sizes: dict  # bytes of each part
    classes: tuple[str, ...]
    skipped: tuple[str, ...]  # images that could not be decoded
    written: int  # images of this run; the others' shards stood already
    seconds: float


@dataclass(frozen=True)
class Checked:
    """What a look at every image and checksum of a folder found."""

    images: int
    shards: int
    has_index: bool
    problems: tuple[str, ...]


def prepare(
    data,
    folder,
    *,
    shard_count=0,
    minival=0,
    holdout=0.2,
    seed=0,
    max_corrupt=10,
    stream=None,
):
    """Writes what `open_data` reads as shards into `folder`: a :class:`Prepared`.

    The parts are ``train``, ``validation`` (the evaluation set, or the `holdout` share) and
    ``minival``: so many images drawn from ``train``, or such a share of them where it is below 1.
    `shard_count` is of ``train`` (0 for one every 1,250 images); the others have as many images a
    shard. Records come in a shuffled order, for readers that cannot shuffle themselves; the index
    restores the input's, so that a training on the shards is the same to the bit as one on `data`
    (without a minival).
    `stream` is where progress goes (standard error).

    Raises ``ValueError`` for input that cannot be prepared, or a `folder` that holds something
    else, and :class:`PrepareError` when the disk is full or gives back other bytes than it got.
    """
    folder = os.fspath(folder)
    began = time.monotonic()
    training, evaluation = open_data(data, holdout=holdout, seed=seed, max_corrupt=max_corrupt)
    parts = _parts(training, evaluation, minival, seed)
    layout = _layout(parts, shard_count, seed)
    plan = _plan(parts, layout, seed)
    opened = list(dict.fromkeys([*training.skipped, *evaluation.skipped]))
    if _is_done(folder, plan):
        return _summary(folder, tfrecord.read_index(folder), opened, 0, time.monotonic() - began)
    partial = _begin(folder, plan)
    skipped, written = list(opened), 0
    total = sum(source.examples for source in parts.values())
    with tqdm(total=total, unit=" images", unit_scale=True, desc="prepare", file=stream) as bar:
        for name, part, positions in layout:
            entry = _standing(folder, name)
            if entry is None:
                entry = _write_shard(
                    folder, name, part, parts[part], positions, skipped, max_corrupt, bar
                )
                written += len(entry["positions"])
            else:
                bar.update(len(positions))
            skipped += entry["skipped"]
    lines = [_read(os.path.join(partial, f"{name}.json")) for name, _, _ in layout]
    _write_aside(os.path.join(folder, tfrecord.INDEX), "\n".join([json.dumps(plan), *lines, ""]))
    tf.io.gfile.rmtree(partial)
    seconds = time.monotonic() - began
    return _summary(folder, tfrecord.read_index(folder), opened, written, seconds)


def check(folder, *, stream=None):
    """Decodes every image of a folder of shards, verifies every checksum: a :class:`Checked`.

    Reads shards with and without index. Raises ``ValueError`` for a folder that has no shards, or
    not all of them.
    """
    folder = os.fspath(folder)
    sets = tfrecord.shard_sets(folder)
    if not sets:
        raise ValueError(
            f"{folder} has no shards (train-00000-of-00008, ...) that could be checked"
        )
    index = tfrecord.read_index(folder)
    entries = {entry["file"]: entry for entry in index[1]} if index else {}
    names = [os.path.basename(path) for paths in sets.values() for path in paths]
    problems = [f"{os.path.join(folder, n)} is missing" for n in sorted(set(entries) - set(names))]
    images = 0
    with tqdm(total=len(names), unit=" shards", desc="check", file=stream) as bar:
        for name in names:
            path = os.path.join(folder, name)
            if index and name not in entries:
                problems.append(f"{path} is not in {tfrecord.INDEX}")
            elif index and _sha256(path) != entries[name]["sha256"]:
                problems.append(f"{path} is not what was written: its SHA-256 differs")
            try:
                records = tfrecord.scan([path])
            except ValueError as error:
                problems.append(str(error))
            else:
                images += len(records.files)
                problems += _bad_images(records)
            bar.update()
    if not problems:
        tfrecord.from_shards(folder, sets)  # raises where labels and labels.txt do not fit
    return Checked(images, len(names), index is not None, tuple(problems))


def summary(prepared):
    """What was prepared, for a person."""
    lines = [f"{prepared.folder}: {len(prepared.classes)} classes"]
    for part, images in prepared.images.items():
        lines.append(
            f"  {part:<12}{images:>12,} images{prepared.shards[part]:>7,} shards"
            f"{prepared.sizes[part] / 1e6:>12,.1f} MB"
        )
    for what in prepared.skipped:
        lines.append(f"  left out, cannot be decoded: {what}")
    if prepared.written:
        lines.append(
            f"{prepared.written:,} images written and verified in {prepared.seconds:.0f} s "
            f"({prepared.written / prepared.seconds:,.0f} images/s)"
        )
    else:
        lines.append("It was complete already; nothing was written")
    lines.append(f"Train on it: effnet-train --data={prepared.folder} --workdir=run1")
    return "\n".join(lines)


def _parts(training, evaluation, minival, seed):
    """{part: source}: the minival is drawn from the training images."""
    if any(not name.strip() or "\n" in name for name in training.classes):
        raise ValueError(f"{training.name} has a class without a name, or with one of two lines")
    if not minival:
        return {"train": training, "validation": evaluation}
    count = round(minival * training.examples) if minival < 1 else int(minival)
    if minival < 0 or (minival >= 1 and count != minival) or not 0 < count < training.examples:
        raise ValueError(
            f"minival {minival} of {training.examples:,} training images: give a share below 1 or "
            "a whole number of images, with some left to train on"
        )
    shuffled = np.random.default_rng([seed, 1]).permutation(training.examples)
    return {
        "train": training.take(np.sort(shuffled[count:])),
        "minival": training.take(np.sort(shuffled[:count])),
        "validation": evaluation,
    }


def _layout(parts, shard_count, seed):
    """[(file name, part, positions of its images in the part's source)]."""
    training = parts["train"].examples
    if not 0 <= shard_count <= training:
        raise ValueError(
            f"{shard_count} shards for {training:,} training images: give 1 to {training}, or 0 "
            f"for one every {IMAGES_PER_SHARD:,} images"
        )
    per_shard = training / shard_count if shard_count else IMAGES_PER_SHARD
    layout = []
    for number, (part, source) in enumerate(parts.items()):
        count = max(1, round(source.examples / per_shard))
        order = np.random.default_rng([seed, 2, number]).permutation(source.examples)
        for shard in range(count):
            name = f"{part}-{shard:05}-of-{count:05}"
            layout.append((name, part, order[shard::count]))
    return layout


def _plan(parts, layout, seed):
    """What the bytes follow from; the index's first line."""
    images = hashlib.sha256()
    for source in parts.values():
        images.update(source.labels.tobytes())
        for i in range(source.examples):
            images.update(_filename(source, i).encode() + b"\n")
    return {
        "parts": {part: source.examples for part, source in parts.items()},
        "shards": {part: sum(own == part for _, own, _ in layout) for part in parts},
        "classes": list(parts["train"].classes),
        "seed": seed,
        "images": images.hexdigest(),
    }


def _filename(source, i):
    """What to call an image, wherever the data lies."""
    name = source.where(i)
    root = source.name.rstrip("/") + "/"
    if name.startswith(root):
        return name[len(root) :]
    return os.path.basename(name) if os.path.isabs(name) or "://" in name else name


def _is_done(folder, plan):
    """Whether the folder holds just this; raises ``ValueError`` if it holds something else."""
    if not tf.io.gfile.isdir(folder):
        return False
    inside = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    partial = os.path.join(folder, tfrecord.PARTIAL)
    if tfrecord.INDEX in inside:
        if tfrecord.read_index(folder)[0] != plan:
            raise ValueError(
                f"{folder} holds other data, or the same with other flags: choose another folder"
            )
        if tfrecord.PARTIAL in inside:  # cut between the two last things to do
            tf.io.gfile.rmtree(partial)
        return True
    begun = os.path.join(partial, _PLAN)
    if tf.io.gfile.exists(begun):
        if json.loads(_read(begun)) != plan:
            raise ValueError(
                f"{folder} holds a part of other data, or of the same with other flags: give the "
                "flags that it was begun with, or choose another folder"
            )
    elif inside - {tfrecord.PARTIAL}:
        raise ValueError(f"{folder} is not empty: choose another folder")
    return False


def _begin(folder, plan):
    partial = os.path.join(folder, tfrecord.PARTIAL)
    tf.io.gfile.makedirs(partial)
    _write_aside(os.path.join(partial, _PLAN), json.dumps(plan))
    _write_aside(os.path.join(folder, tfrecord.LABELS), "\n".join([*plan["classes"], ""]))
    return partial


def _standing(folder, name):
    """The entry of a shard that an earlier run wrote, if it is still what was written."""
    path = os.path.join(folder, name)
    noted = os.path.join(folder, tfrecord.PARTIAL, f"{name}.json")
    if not tf.io.gfile.exists(noted) or not tf.io.gfile.exists(path):
        return None
    try:
        entry = json.loads(_read(noted))
    except json.JSONDecodeError:  # torn by a power cut
        return None
    return entry if _sha256(path) == entry["sha256"] else None


def _write_shard(folder, name, part, source, positions, skipped, max_corrupt, bar):
    """Writes a shard aside, verifies it, moves it into place and notes its entry, which it returns.

    `skipped` are the images that others had to leave out.
    """
    aside = os.path.join(folder, tfrecord.PARTIAL, name)
    entry = {"file": name, "part": part, "bytes": 0, "sha256": ""}
    entry.update({"positions": [], "offsets": [], "lengths": [], "labels": [], "skipped": []})
    with _removed_on_failure(aside), tf.io.TFRecordWriter(aside) as writer:
        for position, encoded, size, why in looked_at(source, positions):
            bar.update()
            if why is not None:
                entry["skipped"].append(_filename(source, position))
                if len(skipped + entry["skipped"]) > max_corrupt:
                    raise too_many(max_corrupt, skipped + entry["skipped"], why)
                continue
            labels = [int(n) + 1 for n in np.atleast_1d(source.labels[position]) if n >= 0]
            record = _example(
                encoded, size, labels, source.classes, _filename(source, position)
            ).SerializeToString(deterministic=True)
            writer.write(record)
            entry["positions"].append(position)
            entry["offsets"].append(entry["bytes"])
            entry["lengths"].append(len(record))
            entry["labels"].append(labels)
            entry["bytes"] += len(record) + tfrecord.FRAMING
    if not entry["positions"]:
        raise ValueError(f"none of the {len(positions)} images of {name} can be decoded")
    _verify(aside, entry)
    entry["sha256"] = _sha256(aside)
    tf.io.gfile.rename(aside, os.path.join(folder, name), overwrite=True)
    _write_aside(os.path.join(folder, tfrecord.PARTIAL, f"{name}.json"), json.dumps(entry))
    return entry


def _example(encoded, size, labels, classes, filename):
    def of_bytes(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    form = next((name for magic, name in _FORMATS if encoded.startswith(magic)), b"")
    features = {
        tfrecord.IMAGE_KEY: of_bytes([encoded]),
        "image/format": of_bytes([form]),
        "image/filename": of_bytes([filename.encode()]),
        "image/height": of_ints([size[0]]),
        "image/width": of_ints([size[1]]),
        tfrecord.LABEL_KEY: of_ints(labels),
        "image/class/text": of_bytes([classes[n - 1].encode() for n in labels]),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def _verify(path, entry):
    """Reads a shard back and compares it with what was meant; raises :class:`PrepareError`."""
    try:
        records = tfrecord.scan([path])
        problems = _bad_images(records)
    except ValueError as error:
        problems = [str(error)]
    if not problems and not (
        records.offsets.tolist() == entry["offsets"]
        and records.lengths.tolist() == entry["lengths"]
        and records.labels.tolist() == [label for own in entry["labels"] for label in own]
    ):
        problems = [f"{path} has other records than were written"]
    if problems:
        tf.io.gfile.remove(path)
        raise PrepareError(
            f"{problems[0]}. The file gives back other bytes than were written to it: look at the "
            "disk, then give the same command again, and it goes on"
        )


def _bad_images(records):
    source = tfrecord.of_records(
        "", (), records, tfrecord.IMAGE_KEY, 1, most=int(records.counts.max())
    )
    return [f"{source.where(i)} cannot be decoded: {why}" for i, why in corrupt(source)]


@contextlib.contextmanager
def _removed_on_failure(path):
    """Removes a file whose writing fails; a full disk is a :class:`PrepareError` that says so."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.remove(path)
        if isinstance(error, (OSError, tf.errors.OpError)):
            full = getattr(error, "errno", None) == errno.ENOSPC or isinstance(
                error, tf.errors.ResourceExhaustedError
            )
            why = "the disk is full" if full else str(error)
            raise PrepareError(
                f"{os.path.dirname(os.path.dirname(path))} cannot be written to: {why}. Make room, "
                "then give the same command again, and it goes on"
            ) from error
        raise


def _write_aside(path, text):
    aside = f"{path}.new"
    with _removed_on_failure(aside), tf.io.gfile.GFile(aside, "w") as file:
        file.write(text)
    tf.io.gfile.rename(aside, path, overwrite=True)


def _read(path):
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def _sha256(path):
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _summary(folder, index, opened, written, seconds):
    header, entries = index
    own = {part: [e for e in entries if e["part"] == part] for part in header["parts"]}
    return Prepared(
        folder,
        {part: sum(len(e["positions"]) for e in some) for part, some in own.items()},
        {part: len(some) for part, some in own.items()},
        {part: sum(e["bytes"] for e in some) for part, some in own.items()},
        tuple(header["classes"]),
        tuple(opened + [what for e in entries for what in e["skipped"]]),
        written,
        seconds,
    )
