"""Opens labeled images: folders, arrays, manifests, TFRecord shards, TensorFlow Datasets.

Paths are local or any that `tf.io.gfile` knows (``gs://``). Image files are decoded once when they
are opened, to find the corrupt ones. Shards are not, since they may be large: ``effnet-train
prepare`` decodes what it writes, and ``effnet-train prepare --check`` verifies any shards. A record
that cannot be decoded ends the training.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow as tf

from keras_effnet.image_decoding import HEAD_BYTES
from tpu_train.input_pipeline import csv_json, data_paths, tfds, tfrecord
from tpu_train.input_pipeline.encoded_images import slice_window
from tpu_train.input_pipeline.image_source import (
    ImageSource,
    of_files,
    split,
    without_corrupt,
)


def open_data(
    data: str | os.PathLike[str], *, holdout: float, seed: int, max_corrupt: int = 10
) -> tuple[ImageSource, ImageSource]:
    """(training source, evaluation source) of ``--data``.

    `data` is

    - a folder of class folders, or a folder with ``train`` and ``validation`` (or any usual name
      of them) of class folders; ``test`` is the evaluation set only without a ``validation``;
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
    data_paths.check_holdout(holdout)
    data_paths.check_path(data)
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
        raise ValueError(f"data {data!r} does not exist: give {data_paths.ACCEPTED}")
    ending = os.path.splitext(data)[1].lower()
    if ending == ".npz":
        return _from_npz(data), None
    if ending in (".csv", ".json"):
        return csv_json.from_manifest(data, max_corrupt)
    raise ValueError(f"data {data!r} has an unknown type: give {data_paths.ACCEPTED}")


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
    return _from_files(folder, _list_files(folder), max_corrupt)


def _from_files(folder, files, max_corrupt):
    """The :class:`ImageSource` of the `files` of a folder, relative to it, with their notes."""

    def read_head(file):
        with tf.io.gfile.GFile(os.path.join(folder, file), "rb") as opened:
            return opened.read(HEAD_BYTES)

    def read_heads(files):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            return list(pool.map(read_head, files))

    found = data_paths.find_images(folder, files, read_heads)
    classes = found.classes
    numbers = {name: n for n, name in enumerate(classes)}
    labels = np.array([numbers[name] for name, _ in found.images], np.int32)
    paths = [os.path.join(folder, path) for _, path in found.images]
    source = of_files(folder, classes, labels, paths, paths)
    return without_corrupt(dataclasses.replace(source, notes=found.notes), max_corrupt)


def _list_files(folder):
    """The paths of all files of a folder, relative to it."""
    listed = []
    for root, _, files in tf.io.gfile.walk(folder):
        inside = os.path.relpath(root, folder).replace(os.sep, "/")
        listed += files if inside == "." else [f"{inside}/{file}" for file in files]
    return listed


def _from_folders(folder, max_corrupt):
    files = _list_files(folder)
    splits, notes = data_paths.find_splits(folder, files)
    if not splits:
        return _from_files(folder, files, max_corrupt), None
    sources = []
    for name in splits.values():
        inside = [file[len(name) + 1 :] for file in files if file.startswith(f"{name}/")]
        sources.append(_from_files(os.path.join(folder, name), inside, max_corrupt))
    training = dataclasses.replace(sources[0], notes=(*notes, *sources[0].notes))
    if len(sources) == 1:
        return training, None
    evaluation = sources[1]
    if training.classes != evaluation.classes:
        differing = sorted(set(training.classes) ^ set(evaluation.classes))
        raise ValueError(
            f"{training.name} and {evaluation.name} have different classes: {', '.join(differing)}"
        )
    return None, (training, evaluation)


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
