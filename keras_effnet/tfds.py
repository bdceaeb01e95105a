"""Image classification data sets of TensorFlow Datasets; the only importer of
tensorflow_datasets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

PREFIX = "tfds:"


@dataclass(frozen=True)
class TfdsDataset:
    """The TFRecord files of a downloaded data set."""

    name: str  # with the prefix, for messages
    image_key: str
    label_key: str
    class_names: tuple[str, ...] | None  # labels count from 0
    paths: dict[str, tuple[str, ...]]  # by split

    def files(self, split: str) -> tuple[str, ...]:
        """The paths of a split; ``ValueError`` if it does not exist."""
        if split not in self.paths:
            raise ValueError(f"{self.name} has no split {split!r}, but {', '.join(self.paths)}")
        return self.paths[split]


def open_dataset(name: str) -> tuple[TfdsDataset, str | None]:
    """(data set, split) of ``tfds:NAME[/CONFIG][/SPLIT]``; the split is None if none is given.

    The data set is downloaded and prepared where tensorflow_datasets keeps its data
    (``TFDS_DATA_DIR``); the TFRecord files are read there, since ``as_numpy`` would read or decode
    every image before the last one that is needed. Raises ``ValueError`` for an unknown name, a
    data set that is not of 8-bit images with one class each, or a format other than TFRecord.
    """
    try:
        import tensorflow_datasets as datasets  # here: it is large and rarely needed
    except ImportError as error:
        raise ValueError(
            f"{name!r} needs tensorflow_datasets: pip install tensorflow-datasets"
        ) from error
    builder, split = _find_builder(datasets, name[len(PREFIX) :])
    keys, features = builder.info.supervised_keys, builder.info.features
    if (
        not keys
        or len(keys) != 2
        or not all(isinstance(key, str) for key in keys)
        or not isinstance(features[keys[0]], datasets.features.Image)
        or np.dtype(features[keys[0]].np_dtype) != np.uint8
        or not isinstance(features[keys[1]], datasets.features.ClassLabel)
    ):
        raise ValueError(
            f"{name} is not a data set of 8-bit images with one class each: it has "
            f"{', '.join(features)}, supervised keys {keys}"
        )
    try:
        builder.download_and_prepare()
    except ImportError as error:  # lazy imports of tensorflow_datasets: scipy, ...
        raise ValueError(f"{name} also needs {error.name}: pip install {error.name}") from error
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise ValueError(
            f"{name} is stored as {file_format}; prepare it as TFRecord: "
            f"tensorflow_datasets.builder({builder.name!r}, file_format='tfrecord')"
            ".download_and_prepare()"
        )
    names = builder.info.features[keys[1]].names  # some are known only after the download
    paths = {
        split_name: tuple(os.fspath(path) for path in info.filepaths)
        for split_name, info in builder.info.splits.items()
    }
    dataset = TfdsDataset(name, *keys, None if names is None else tuple(names), paths)
    return dataset, split


def _find_builder(datasets, name):
    """(builder, split or None): the last part of a name may be a configuration or a split."""
    head, slash, tail = name.rpartition("/")
    for candidate, split in ((name, None), *(((head, tail),) if slash else ())):
        try:
            return datasets.builder(candidate), split
        except ValueError as error:  # unknown data set or configuration
            reason = error
    raise ValueError(f"tensorflow_datasets has no data set {candidate!r}") from reason
