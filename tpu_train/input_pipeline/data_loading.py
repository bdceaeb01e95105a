"""Opens labeled images for training: any data set of :mod:`keras_effnet.datasets.dataset`.

Paths are local or any that `tf.io.gfile` knows (``gs://``). Evaluation images in files are decoded
once when they are opened, so that every evaluation counts the same images. Of training files, only
those that look incomplete are: a damaged one that is noticed when it is read is replaced by another
image of its class. Shards are not decoded, since they may be large: ``effnet-train prepare``
decodes what it writes, and ``effnet-train prepare --check`` verifies any shards. A record that
cannot be decoded ends the training.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.datasets import arrays, manifests
from keras_effnet.datasets.dataset import Dataset, check_path, open_dataset
from keras_effnet.datasets.folders import check_several_classes, open_folder
from keras_effnet.datasets.labeled_images import ImageArray, ImageFiles, LabeledImages
from keras_effnet.datasets.splits import ALL, TEST, evaluation_split, some
from keras_effnet.datasets.training_data import open_training_data
from keras_effnet.datasets.undecodable import without_undecodable
from tpu_train.input_pipeline.encoded_images import slice_window
from tpu_train.input_pipeline.image_source import (
    ImageSource,
    of_encoded,
    of_files,
    without_corrupt,
)
from tpu_train.input_pipeline.image_source import split as split
from tpu_train.input_pipeline.tfrecord import make_reader, scan
from tpu_train.remote_files import GFILE


def open_path(
    data: str | os.PathLike[str], manifest: manifests.ManifestDataset | None = None
) -> Dataset:
    """The data set of ``--data``, local or remote; its images are not read yet.

    `manifest` is that of the path, if it is one and has been read. Raises ``ValueError`` for a path
    that is no data set.
    """
    if manifest is not None:
        return dataclasses.replace(manifest, files=GFILE)
    data = os.fspath(data)
    check_path(data)
    return open_dataset(data, GFILE, scan)


def open_data(
    data: str | os.PathLike[str],
    *,
    holdout: float,
    seed: int,
    max_corrupt: int = 10,
    on_duplicates: str = "warn",
    dataset: Dataset | None = None,
) -> tuple[ImageSource, ImageSource]:
    """(training source, evaluation source) of ``--data``.

    `dataset` is that of the path, if it is open. See
    :func:`keras_effnet.datasets.training_data.open_training_data`.
    """
    training, evaluation = open_training_data(
        data,
        holdout=holdout,
        seed=seed,
        max_corrupt=max_corrupt,
        on_duplicates=on_duplicates,
        dataset=dataset or open_path(data),
    )
    source = of_images(training)
    if not isinstance(training.storage, ImageFiles):
        return source, of_images(evaluation)
    left = max_corrupt - len(training.skipped)
    evaluation = _decodable(evaluation, left)
    left = max(0, left - len(evaluation.skipped))
    return dataclasses.replace(source, may_skip=left), evaluation


def open_test_images(
    dataset: Dataset, classes: Sequence[str], *, max_corrupt: int = 10
) -> ImageSource | None:
    """The test images of a data set, which training does not see; None if there are none.

    There are none without a test split, if it has no labels, and if it is what :func:`open_data`
    evaluates on. `classes` are those of training; the test images may lack some. Raises
    ``ValueError`` for other classes, and for too many corrupt files.
    """
    if TEST not in dataset.splits or evaluation_split(dataset.splits) == TEST:
        return None
    (images,) = dataset.open(TEST)
    if images.labels is None:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in images.classes if name not in numbers]
    if unknown:
        raise ValueError(
            f"{images.name} has classes that the training images lack: {some(unknown)}. Remove "
            "them, or add training images"
        )
    source = _decodable(without_undecodable(images, max_corrupt), max_corrupt)
    to_training = np.array([*(numbers[name] for name in images.classes), -1], np.int32)
    return dataclasses.replace(source, classes=tuple(classes), labels=to_training[source.labels])


def _decodable(images, max_corrupt):
    """The :class:`ImageSource` of images, without files that TensorFlow cannot decode."""
    source = of_images(images)
    if not isinstance(images.storage, ImageFiles):
        return source
    return without_corrupt(source, max(0, max_corrupt - len(images.skipped)))


def of_images(images: LabeledImages) -> ImageSource:
    """The :class:`ImageSource` of labeled images."""
    storage, labels = images.storage, images.labels
    if isinstance(storage, ImageArray):
        pixels = tf.constant(storage.pixels)
        source = ImageSource(
            images.name,
            images.classes,
            labels,
            read=lambda i: pixels[i],
            shape=tf.shape,
            crop=slice_window,
        )
    elif isinstance(storage, ImageFiles):
        source = of_files(images.name, images.classes, labels, storage.paths, storage.names)
    else:
        read = make_reader(storage.records, storage.image_key)
        source = of_encoded(images.name, images.classes, labels, read, storage.where)
    return dataclasses.replace(source, notes=images.notes, skipped=images.skipped)


def from_arrays(name: str, images, labels, classes) -> ImageSource:
    """The :class:`ImageSource` of uint8 images (examples, height, width, 1 or 3), integer labels.

    Raises ``ValueError`` for another shape, dtype or range, or labels that are not classes.
    """
    return of_images(arrays.from_arrays(name, images, labels, classes))


def from_folder(folder: str | os.PathLike[str], *, max_corrupt: int = 10) -> ImageSource:
    """The :class:`ImageSource` of a folder of class folders.

    Up to `max_corrupt` files that cannot be decoded are skipped. Raises ``ValueError`` for more of
    them, no images, or only one class.
    """
    (images,) = open_folder(os.fspath(folder), GFILE).open(ALL)
    check_several_classes(images)
    return of_images(without_undecodable(images, max_corrupt))
