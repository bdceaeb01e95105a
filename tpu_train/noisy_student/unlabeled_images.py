"""Opens the images that a teacher labels: any data set, whose own labels are not read."""

from __future__ import annotations

import os
from dataclasses import replace

from keras_effnet.datasets.dataset import check_path, open_dataset
from keras_effnet.datasets.folders import FolderDataset, image_folders, open_images
from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.datasets.splits import ALL, TRAINING, some
from tpu_train.input_pipeline.tfrecord import scan
from tpu_train.remote_files import GFILE


def open_unlabeled(data: str | os.PathLike[str]) -> LabeledImages:
    """The images of a ``--data`` path, without labels.

    All images of a folder and its subfolders, in the order of their paths; of other data the
    training images if there are splits. `notes` states which labels are not used. Raises
    ``ValueError`` for data without images.
    """
    data = os.fspath(data)
    check_path(data)
    if GFILE.isdir(data) and not _has_shards(data):
        return _of_folder(data)
    dataset = open_dataset(data, GFILE, scan)
    if isinstance(dataset, FolderDataset):
        return _of_folder(data)
    split = next(s for s in (TRAINING, ALL, *dataset.splits) if s in dataset.splits)
    (images,) = dataset.open(split)
    notes = images.notes
    others = [s for s in dataset.splits if s != split]
    if others:
        notes += (f"not labeled, because only the {split} images are: {', '.join(others)}",)
    return replace(images, classes=None, known_labels=None, notes=notes)


def _has_shards(folder):
    return any("-of-" in name for name in GFILE.listdir(folder))


def _of_folder(folder):
    images = open_images(folder, GFILE)
    inside = [os.path.relpath(path, folder).replace(os.sep, "/") for path in images.storage.paths]
    folders = sorted(image_folders(inside))
    if not folders:
        return images
    note = f"{folder} has the folders {some(folders)}: their names are not used as labels"
    return replace(images, notes=(note, *images.notes))
