"""Opens labeled images for training: any data set of :mod:`keras_effnet.datasets.dataset`.

Paths are local or any that `tf.io.gfile` knows (``gs://``). Image files are decoded once when they
are opened, to find the corrupt ones. Shards are not, since they may be large: ``effnet-train
prepare`` decodes what it writes, and ``effnet-train prepare --check`` verifies any shards. A record
that cannot be decoded ends the training.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.datasets import arrays, tfds
from keras_effnet.datasets.dataset import check_path, open_dataset
from keras_effnet.datasets.folders import FolderDataset, check_several_classes, open_folder
from keras_effnet.datasets.holdout import check_every_class, check_holdout, small_classes
from keras_effnet.datasets.labeled_images import ImageArray, ImageFiles, LabeledImages
from keras_effnet.datasets.manifests import ManifestDataset
from keras_effnet.datasets.splits import ALL, TEST, TRAINING, evaluation_split, some
from tpu_train.input_pipeline.encoded_images import slice_window
from tpu_train.input_pipeline.image_source import (
    ImageSource,
    of_encoded,
    of_files,
    split,
    without_corrupt,
)
from tpu_train.input_pipeline.tfrecord import make_reader, scan
from tpu_train.remote_files import GFILE


def open_data(
    data: str | os.PathLike[str], *, holdout: float, seed: int, max_corrupt: int = 10
) -> tuple[ImageSource, ImageSource]:
    """(training source, evaluation source) of ``--data``.

    `data` is any data set of :mod:`keras_effnet.datasets.dataset` with labels. The evaluation set
    is its ``validation`` split, else ``minival``, else ``test``. If it has none, the fraction
    `holdout` of every class is held out, a function of the seed. Up to `max_corrupt` image files
    are skipped. Raises ``ValueError`` for data that cannot be trained on.
    """
    data = os.fspath(data)
    check_holdout(holdout)
    check_path(data)
    dataset = open_dataset(data, GFILE, scan)
    names = _used_splits(data, dataset)
    opened = dataset.open(*names)
    for images in opened:
        _check_classes(dataset, images)
    if isinstance(dataset, ManifestDataset):
        check_every_class(data, opened[0].labels, opened[0].classes)
    notes = ()
    if TEST in dataset.splits and TEST not in names:
        notes = (f"kept for the end of the run: the test images of {data}",)
    sources = [_source(images, max_corrupt) for images in opened]
    training, evaluation = sources if len(sources) == 2 else split(sources[0], holdout, seed)
    warning = small_classes(training.labels, evaluation.labels, training.classes)
    notes += (warning,) if warning else ()
    return dataclasses.replace(training, notes=(*notes, *training.notes)), evaluation


def open_test_images(
    data: str | os.PathLike[str], classes: Sequence[str], *, max_corrupt: int = 10
) -> ImageSource | None:
    """The test images of ``--data``, which training does not see; None if there are none.

    There are none without a test split, if it has no labels, and if it is what :func:`open_data`
    evaluates on. `classes` are those of training; the test images may lack some. Raises
    ``ValueError`` for other classes, and for too many corrupt files.
    """
    dataset = open_dataset(os.fspath(data), GFILE, scan)
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
    source = _source(images, max_corrupt)
    to_training = np.array([*(numbers[name] for name in images.classes), -1], np.int32)
    return dataclasses.replace(source, classes=tuple(classes), labels=to_training[source.labels])


def _used_splits(data, dataset):
    """The names of the splits to train and to evaluate on, or only the former."""
    if data.startswith(tfds.PREFIX) and dataset.named_split:
        raise ValueError(
            f"{data} names a split; training uses train, and validation or test to evaluate: give "
            f"{data.rpartition('/')[0]}"
        )
    if dataset.splits == (ALL,):
        return (ALL,)
    if TRAINING not in dataset.splits:
        kind = "shards" if hasattr(dataset, "shards") else "images"
        raise ValueError(f"{data} has no train {kind}, but {', '.join(dataset.splits)} {kind}")
    evaluation = evaluation_split(dataset.splits)
    return (TRAINING, evaluation) if evaluation else (TRAINING,)


def _check_classes(dataset, images):
    """Raises ``ValueError`` for images without labels, or of only one class."""
    if isinstance(dataset, FolderDataset):
        check_several_classes(images)
    if images.labels is None:
        raise ValueError(f"{images.name} has no labels; training needs one for each image")
    if len(images.classes) < 2:
        raise ValueError(
            f"{images.name} has only one class ({images.classes[0]}); training needs at least two"
        )


def _source(images, max_corrupt):
    source = of_images(images)
    is_checked = isinstance(images.storage, ImageFiles)
    return without_corrupt(source, max_corrupt) if is_checked else source


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
    return dataclasses.replace(source, notes=images.notes)


def from_arrays(name: str, images, labels, classes) -> ImageSource:
    """The :class:`ImageSource` of uint8 images (examples, height, width, 1 or 3), integer labels.

    Raises ``ValueError`` for another shape, dtype or range, or labels that are not classes.
    """
    return of_images(arrays.from_arrays(name, images, labels, classes))


def from_folder(folder: str | os.PathLike[str], *, max_corrupt: int = 10) -> ImageSource:
    """The :class:`ImageSource` of a folder of class folders; every file is decoded once.

    Up to `max_corrupt` files that cannot be decoded are skipped. Raises ``ValueError`` for more of
    them, no images, or only one class.
    """
    dataset = open_folder(os.fspath(folder), GFILE)
    (images,) = dataset.open(ALL)
    _check_classes(dataset, images)
    return _source(images, max_corrupt)
