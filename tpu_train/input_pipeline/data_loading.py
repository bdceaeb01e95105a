"""Where labelled images come from: folders, arrays, lists, TFRecord shards, TensorFlow Datasets.

Each image can be had by its number. Paths are the file system's or any that `tf.io.gfile` knows
(``gs://``). Image files are decoded once when they are opened, to find the corrupt ones. Shards are
not, for they may be large: ``effnet-train prepare`` has decoded what it wrote, and
``effnet-train prepare --check`` does it for any; a record that cannot be decoded ends a training.
"""

import os

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline import csv_json, tfds, tfrecord
from tpu_train.input_pipeline.image_source import (
    Source,
    of_files,
    slice_window,
    split,
    without_corrupt,
)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLITS = (("train", "validation"), ("train", "val"), ("train", "test"))
_ACCEPTED = (
    "a folder with one folder of images a class, a folder of TFRecord shards "
    "(train-00000-of-00008, ...), a list (.csv or .json), an .npz file with the arrays images and "
    "labels, or tfds:NAME"
)


def open_data(data, *, holdout, seed, max_corrupt=10):
    """(training source, evaluation source) of what ``--data`` names.

    `data` is

    - a folder of class folders, or one that has such folders ``train`` and ``validation``, ``val``
      or ``test``;
    - a folder of TFRecord shards in ImageNet's form; ``validation`` shards, else ``minival``, else
      ``test`` ones are the evaluation set;
    - a ``.csv`` or ``.json`` list, see :func:`tpu_train.input_pipeline.csv_json.read_list`;
    - an ``.npz`` file with ``images``, ``labels`` and, if it likes, ``classes``;
    - ``tfds:NAME``, see :func:`tpu_train.input_pipeline.tfds.open_builder`.

    Without an evaluation set of its own, a `holdout` share of every class is held out, the same one
    for the same seed. Up to `max_corrupt` image files are skipped. Raises ``ValueError`` when
    nothing can be trained on there.
    """
    data = os.fspath(data)
    if not 0 < holdout < 1:
        raise ValueError(f"holdout {holdout} is no share: give one between 0 and 1, e.g. 0.2")
    whole, halves = _open(data, max_corrupt)
    return halves or split(whole, holdout, seed)


def _open(data, max_corrupt):
    """(source, None), or (None, (training, evaluation)) where the data says which is which."""
    if data.startswith("tfds:"):
        return tfds.from_tfds(data[len("tfds:") :])
    if tf.io.gfile.isdir(data):
        sets = tfrecord.shard_sets(data)
        if sets:
            return tfrecord.from_shards(data, sets)
        return _from_folders(data, max_corrupt)
    if not tf.io.gfile.exists(data):
        raise ValueError(f"data {data!r} is not there: give {_ACCEPTED}")
    ending = os.path.splitext(data)[1].lower()
    if ending == ".npz":
        return _from_npz(data), None
    if ending in (".csv", ".json"):
        return csv_json.from_list(data, max_corrupt)
    raise ValueError(f"data {data!r} is of no kind that is known here: give {_ACCEPTED}")


def from_arrays(name, images, labels, classes):
    """A :class:`Source` of uint8 images (examples, height, width, 1 or 3) with integer labels.

    Raises ``ValueError`` for another shape, type or range, or labels that the classes do not have.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"{name}: images are {images.dtype} {images.shape}; give uint8 in [0, 255] of shape "
            "(examples, height, width, 3) or (..., 1)"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name}: labels are {labels.dtype} {labels.shape} for {len(images)} images; give one "
            "integer an image"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{name}: labels run from {labels.min()} to {labels.max()}, but there are "
            f"{len(classes)} classes (0 to {len(classes) - 1})"
        )
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    pixels = tf.constant(images)
    return Source(
        name,
        tuple(classes),
        labels.astype(np.int32),
        read=lambda i: pixels[i],
        shape=tf.shape,
        crop=slice_window,
    )


def from_folder(folder, *, max_corrupt=10):
    """A :class:`Source` of a folder with one folder of images a class; every file is decoded once.

    Raises ``ValueError`` for a folder without images, with one class, or with more than
    `max_corrupt` files that cannot be decoded (they are skipped up to there, and named).
    """
    folder = os.fspath(folder)
    found = []  # (class, path)
    for root, _, files in tf.io.gfile.walk(folder):
        inside = os.path.relpath(root, folder).split(os.sep)[0]
        if inside != "." and not inside.startswith("."):
            images = [f for f in files if f.lower().endswith(IMAGE_ENDINGS)]
            found += [(inside, os.path.join(root, f)) for f in images]
    found.sort()
    if not found:
        raise ValueError(
            f"{folder} has no images: it needs one folder a class, with {'/'.join(IMAGE_ENDINGS)} "
            "files in it"
        )
    classes = sorted({name for name, _ in found})
    if len(classes) < 2:
        raise ValueError(
            f"{folder} has images of one class only ({classes[0]}); "
            "it needs one folder a class, and two classes at least"
        )
    labels = [classes.index(name) for name, _ in found]
    paths = [path for _, path in found]
    source = of_files(folder, classes, np.array(labels, np.int32), paths, paths)
    return without_corrupt(source, max_corrupt)


def _from_folders(folder, max_corrupt):
    for train, evaluation in _SPLITS:
        halves = os.path.join(folder, train), os.path.join(folder, evaluation)
        if all(map(tf.io.gfile.isdir, halves)):
            sources = tuple(from_folder(half, max_corrupt=max_corrupt) for half in halves)
            if sources[0].classes != sources[1].classes:
                odd = sorted(set(sources[0].classes) ^ set(sources[1].classes))
                raise ValueError(
                    f"{halves[0]} and {halves[1]} differ in their classes: {', '.join(odd)}"
                )
            return None, sources
    return from_folder(folder, max_corrupt=max_corrupt), None


def _from_npz(path):
    try:
        with tf.io.gfile.GFile(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            names = arrays["classes"] if "classes" in arrays else range(int(labels.max()) + 1)
            return from_arrays(path, images, labels, [str(n) for n in names])
    except (OSError, KeyError, EOFError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(path):
            raise
        raise ValueError(
            f"{path} is not an .npz file with the arrays images and labels: {error}"
        ) from error
