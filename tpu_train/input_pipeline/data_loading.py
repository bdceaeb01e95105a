"""Opens labeled images: folders, arrays, manifests, TFRecord shards, TensorFlow Datasets.

Paths are local or any that `tf.io.gfile` knows (``gs://``). Image files are decoded once when they
are opened, to find the corrupt ones. Shards are not, since they may be large: ``effnet-train
prepare`` decodes what it writes, and ``effnet-train prepare --check`` verifies any shards. A record
that cannot be decoded ends the training.
"""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline import csv_json, tfds, tfrecord
from tpu_train.input_pipeline.image_source import (
    ImageSource,
    of_files,
    slice_window,
    split,
    without_corrupt,
)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLITS = (("train", "validation"), ("train", "val"), ("train", "test"))
_ACCEPTED = (
    "a folder with one folder of images per class, a folder of TFRecord shards "
    "(train-00000-of-00008, ...), a CSV or JSON manifest, an .npz file with the arrays images and "
    "labels, or tfds:NAME"
)


def open_data(
    data: str | os.PathLike[str], *, holdout: float, seed: int, max_corrupt: int = 10
) -> tuple[ImageSource, ImageSource]:
    """(training source, evaluation source) of ``--data``.

    `data` is

    - a folder of class folders, or a folder with ``train`` and ``validation`` (or ``val``, or
      ``test``) of class folders;
    - a folder of TFRecord shards in ImageNet's form; ``validation`` shards, else ``minival``, else
      ``test`` are the evaluation set;
    - a ``.csv`` or ``.json`` manifest, see
      :func:`tpu_train.input_pipeline.csv_json.read_manifest`;
    - an ``.npz`` file with ``images``, ``labels`` and optionally ``classes``;
    - ``tfds:NAME``, see :func:`tpu_train.input_pipeline.tfds.from_tfds`.

    If the data has no evaluation set, the fraction `holdout` of every class is held out, a function
    of the seed. Up to `max_corrupt` image files are skipped. Raises ``ValueError`` for data that
    cannot be trained on.
    """
    data = os.fspath(data)
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must be between 0 and 1, e.g. 0.2; got {holdout}")
    source, splits = _open(data, max_corrupt)
    return splits or split(source, holdout, seed)


def _open(data, max_corrupt):
    """(source, None), or (None, (training, evaluation)) if the data has splits."""
    if data.startswith("tfds:"):
        return tfds.from_tfds(data)
    if tf.io.gfile.isdir(data):
        shards = tfrecord.shard_sets(data)
        if shards:
            return tfrecord.from_shards(data, shards)
        return _from_folders(data, max_corrupt)
    if not tf.io.gfile.exists(data):
        raise ValueError(f"data {data!r} does not exist: give {_ACCEPTED}")
    ending = os.path.splitext(data)[1].lower()
    if ending == ".npz":
        return _from_npz(data), None
    if ending in (".csv", ".json"):
        return csv_json.from_manifest(data, max_corrupt)
    raise ValueError(f"data {data!r} has an unknown type: give {_ACCEPTED}")


def from_arrays(name: str, images, labels, classes) -> ImageSource:
    """The :class:`ImageSource` of uint8 images (examples, height, width, 1 or 3), integer labels.

    Raises ``ValueError`` for another shape, dtype or range, or labels that are not classes.
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
            "integer per image"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{name}: labels run from {labels.min()} to {labels.max()}, but there are "
            f"{len(classes)} classes (0 to {len(classes) - 1})"
        )
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    pixels = tf.constant(images)
    return ImageSource(
        name,
        tuple(classes),
        labels.astype(np.int32),
        read=lambda i: pixels[i],
        shape=tf.shape,
        crop=slice_window,
    )


def from_folder(folder: str | os.PathLike[str], *, max_corrupt: int = 10) -> ImageSource:
    """The :class:`ImageSource` of a folder of class folders; every file is decoded once.

    Up to `max_corrupt` files that cannot be decoded are skipped. Raises ``ValueError`` for more of
    them, no images, or only one class.
    """
    folder = os.fspath(folder)
    images = []  # (class, path)
    for root, _, files in tf.io.gfile.walk(folder):
        inside = os.path.relpath(root, folder).split(os.sep)[0]
        if inside != "." and not inside.startswith("."):
            names = [f for f in files if f.lower().endswith(IMAGE_ENDINGS)]
            images += [(inside, os.path.join(root, f)) for f in names]
    images.sort()
    if not images:
        raise ValueError(
            f"{folder} has no images: it needs one folder per class with "
            f"{'/'.join(IMAGE_ENDINGS)} files"
        )
    classes = sorted({name for name, _ in images})
    if len(classes) < 2:
        raise ValueError(
            f"{folder} has images of only one class ({classes[0]}); it needs one folder per class "
            "and at least two classes"
        )
    labels = [classes.index(name) for name, _ in images]
    paths = [path for _, path in images]
    source = of_files(folder, classes, np.array(labels, np.int32), paths, paths)
    return without_corrupt(source, max_corrupt)


def _from_folders(folder, max_corrupt):
    for train, evaluation in _SPLITS:
        splits = os.path.join(folder, train), os.path.join(folder, evaluation)
        if all(map(tf.io.gfile.isdir, splits)):
            sources = tuple(from_folder(path, max_corrupt=max_corrupt) for path in splits)
            if sources[0].classes != sources[1].classes:
                differing = sorted(set(sources[0].classes) ^ set(sources[1].classes))
                raise ValueError(
                    f"{splits[0]} and {splits[1]} have different classes: {', '.join(differing)}"
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
