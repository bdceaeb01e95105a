"""Opens the images of a ``--data`` path, whatever they are stored in. Needs no TensorFlow.

A data set is one of

- a folder with one folder of images per class; a folder with ``train``, ``validation`` and
  ``test`` (or any usual name of them) of such class folders; or a folder of images without classes;
- a folder of TFRecord shards in ImageNet's form (``train-00000-of-00008``), or FOLDER/SPLIT;
- a CSV, JSON or JSON lines manifest, see :func:`keras_effnet.datasets.manifests.read_manifest`;
- an ``.npz`` file with ``images`` and optionally ``labels`` and ``classes``;
- ``tfds:NAME``, see :func:`keras_effnet.datasets.tfds.open_tfds`.

Every kind has ``splits``, the names of its splits, and ``open(*splits)``, their images:

>>> import tempfile, os, numpy as np
>>> from PIL import Image
>>> folder = tempfile.mkdtemp()
>>> for path in ("train/cat/0.png", "train/dog/0.png", "valid/cat/1.png", "valid/dog/1.png"):
...     os.makedirs(os.path.dirname(f"{folder}/{path}"), exist_ok=True)
...     Image.new("RGB", (12, 8)).save(f"{folder}/{path}")
>>> dataset = open_dataset(folder)
>>> dataset.splits
('train', 'validation')
>>> (images,) = dataset.open("validation")
>>> len(images), images.classes, images.labels.tolist()
(2, ('cat', 'dog'), [0, 1])
>>> for identifier, pixels, labels in images:  # decoded one by one, in a fixed order
...     print(os.path.relpath(identifier, folder), pixels.shape, labels)
valid/cat/1.png (8, 12, 3) (0,)
valid/dog/1.png (8, 12, 3) (1,)

``images.pixels(i)`` decodes one image, ``images.take(indices)`` chooses some, and
:func:`keras_effnet.datasets.holdout.hold_out` splits data without splits as training does. Remote
paths (``gs://``) are read through a :class:`keras_effnet.datasets.file_system.FileSystem`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Union

from keras_effnet.datasets import manifests, tfds
from keras_effnet.datasets.arrays import ArrayDataset
from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.folders import FolderDataset, open_folder
from keras_effnet.datasets.shards import ShardDataset, open_shards

ACCEPTED = (
    "a folder with one folder of images per class, a folder of TFRecord shards "
    "(train-00000-of-00008, ...), a CSV, JSON or JSON lines manifest, an .npz file with the arrays "
    "images and labels, or tfds:NAME"
)
_FILE_ENDINGS = (*manifests.ENDINGS, ".npz")

Dataset = Union[
    FolderDataset, ShardDataset, manifests.ManifestDataset, ArrayDataset, tfds.TfdsDataset
]


def open_dataset(
    data: str | os.PathLike[str], files: FileSystem = LOCAL, scan: Callable | None = None
) -> Dataset:
    """The data set of a path; its images are not read yet.

    `files` reads remote paths. `scan` reads the labels of TFRecord files without an index, as
    ``scan(paths, image_key=, label_key=)`` -> :class:`keras_effnet.datasets.shards.LabeledRecords`;
    without it they are read one by one when they are asked for. Raises ``ValueError`` for a path
    that does not exist, or is none of these.
    """
    data = os.fspath(data)
    if data.startswith(tfds.PREFIX):
        return tfds.open_tfds(data, scan)
    if not files.exists(data) or files.isdir(data):
        shards = open_shards(data, files, scan)
        if shards is not None:
            return shards
    if not files.exists(data):
        raise ValueError(f"data {data!r} does not exist: give {ACCEPTED}")
    if files.isdir(data):
        return open_folder(data, files)
    ending = os.path.splitext(data)[1].lower()
    if ending == ".npz":
        return ArrayDataset(data, files)
    if ending in manifests.ENDINGS:
        return manifests.open_manifest(data, files)
    raise ValueError(f"data {data!r} has an unknown type: give {ACCEPTED}")


def check_path(data: str) -> None:
    """Raises ``ValueError`` for a local path that cannot be images; remote ones are not looked at.

    >>> check_path("gs://bucket/photos")
    """
    if data.startswith(tfds.PREFIX):
        tfds.check_name(data)
        return
    if data.lower().startswith(("http://", "https://")):
        raise ValueError(f"data {data!r} is a URL, which is not downloaded: give {ACCEPTED}")
    if "://" in data:
        return
    if not os.path.exists(data):
        raise ValueError(f"data {data!r} does not exist: give {ACCEPTED}")
    if not os.path.isdir(data) and not data.lower().endswith(_FILE_ENDINGS):
        raise ValueError(f"data {data!r} has an unknown type: give {ACCEPTED}")
