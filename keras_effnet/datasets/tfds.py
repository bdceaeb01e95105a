"""Image classification data sets of TensorFlow Datasets; the only importer of
tensorflow_datasets.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_effnet.datasets.labeled_images import ImageRecords, LabeledImages, pad_flat_labels
from keras_effnet.datasets.tfrecord import Records, scan_framing
from keras_effnet.suggestions import did_you_mean

PREFIX = "tfds:"


@dataclass(frozen=True)
class TfdsDataset:
    """The TFRecord files of a downloaded data set."""

    name: str  # with the prefix, for messages
    image_key: str
    label_key: str
    class_names: tuple[str, ...] | None  # labels count from 0
    paths: dict[str, tuple[str, ...]]  # by split
    scan: Callable | None = None  # (paths, image_key=, label_key=) -> LabeledRecords
    named_split: str | None = None  # by the user

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the data set, or the one that the user named."""
        return (self.named_split,) if self.named_split else tuple(self.paths)

    def open(self, *splits: str) -> list[LabeledImages]:
        """The images of splits; without `scan`, labels are read when they are asked for.

        Raises ``ValueError`` for labels that are not classes.
        """
        return [self._open(split) for split in splits]

    def _open(self, split):
        paths, keys = self.paths[split], (self.image_key, self.label_key)
        name = self.name if self.named_split else f"{self.name}/{split}"
        if self.scan is None:
            records = Records.of_files(paths, [scan_framing(path) for path in paths])
            return LabeledImages(name, self.class_names, ImageRecords(records, *keys, 0))
        labeled = self.scan(paths, image_key=keys[0], label_key=keys[1])
        lowest, highest = labeled.labels.min(), labeled.labels.max()
        if lowest < 0 or highest >= len(self.class_names):
            raise ValueError(
                f"{name} has labels from {lowest} to {highest}, but {len(self.class_names)} classes"
            )
        labels = pad_flat_labels(labeled.labels, labeled.counts)
        storage = ImageRecords(labeled.records, *keys, 0)
        return LabeledImages(name, self.class_names, storage, labels)


def check_name(name: str) -> None:
    """Raises ``ValueError`` for ``tfds:`` without a name or with an unknown one, and without
    tensorflow_datasets. Nothing is downloaded.
    """
    _builder(name)


def _builder(name):
    """(tensorflow_datasets, builder, split or None) of ``tfds:NAME[/CONFIG][/SPLIT]``."""
    if not name[len(PREFIX) :].strip("/"):
        raise ValueError(f"data {name!r} names no data set: give e.g. tfds:cifar10")
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise ValueError(f"{name!r} needs tensorflow_datasets: pip install tensorflow-datasets")
    try:
        import tensorflow_datasets as datasets  # here: it is large and rarely needed
    except ImportError as error:
        raise ValueError(f"{name!r} needs tensorflow_datasets, and: {error}") from error
    return datasets, *_find_builder(datasets, name[len(PREFIX) :])


def open_tfds(name: str, scan: Callable | None = None) -> TfdsDataset:
    """The :class:`TfdsDataset` of ``tfds:NAME[/CONFIG][/SPLIT]``.

    The data set is downloaded and prepared where tensorflow_datasets keeps its data
    (``TFDS_DATA_DIR``); the TFRecord files are read there, since ``as_numpy`` would read or decode
    every image before the last one that is needed. Raises ``ValueError`` for an unknown name, a
    data set that is not of 8-bit images with one class each, or a format other than TFRecord.
    """
    datasets, builder, split = _builder(name)
    known = builder.info.splits  # of some data sets before the download
    if split is not None and known and split not in known:
        raise ValueError(f"{name} has no split {split!r}, but {', '.join(known)}")
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
    if split is not None and split not in paths:
        raise ValueError(f"{name} has no split {split!r}, but {', '.join(paths)}")
    classes = None if names is None else tuple(names)
    return TfdsDataset(name, *keys, classes, paths, scan, split)


def _find_builder(datasets, name):
    """(builder, split or None): the last part of a name may be a configuration or a split."""
    head, slash, tail = name.rpartition("/")
    if re.search(r"[\[\]%+]", tail):
        raise ValueError(
            f"{PREFIX}{name}: {tail!r} is a part of a split: give a whole one, or none"
        )
    for candidate, split in ((name, None), *(((head, tail),) if slash else ())):
        try:
            return datasets.builder(candidate), split
        except ValueError as error:  # unknown data set or configuration
            reason = error
        except Exception as error:  # an unknown version, or a host of data sets without network
            text = str(error).partition("\n")[0]
            raise ValueError(f"tensorflow_datasets cannot open {candidate!r}: {text}") from error
    near = did_you_mean(candidate, datasets.list_builders(with_community_datasets=False))
    raise ValueError(
        f"tensorflow_datasets has no data set {candidate!r}.{near} Its list_builders() lists all"
    ) from reason
