"""Labeled images by index, wherever they are stored: files, TFRecord records, an array."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from keras_effnet.datasets.file_probe import FileProbe
from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.tf_example import parse_example
from keras_effnet.datasets.tfrecord import IMAGE_KEY, LABEL_KEY, Records
from keras_effnet.image_decoding import decode_image

_LARGEST_NUMBER = 999_999  # of a class


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files."""

    paths: tuple[str, ...]
    names: tuple[str, ...]  # of each in messages
    files: FileSystem = LOCAL
    probes: tuple[FileProbe, ...] | None = None  # of each, if they have been read

    def __len__(self):
        return len(self.paths)

    def read(self, i: int) -> bytes:
        """The content of file `i`."""
        return self.files.read(self.paths[i])

    def where(self, i: int) -> str:
        """The name of file `i`."""
        return self.names[i]

    def take(self, indices) -> ImageFiles:
        """The files at these indices, in this order."""
        columns = {"paths": self.paths, "names": self.names, "probes": self.probes}
        chosen = {
            name: column and tuple(column[i] for i in indices) for name, column in columns.items()
        }
        return replace(self, **chosen)


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """TFRecord records: a ``tf.train.Example`` with an encoded image and its labels each."""

    records: Records
    image_key: str = IMAGE_KEY
    label_key: str = LABEL_KEY
    first_label: int = 1  # as in ImageNet's form; 0 in TensorFlow Datasets
    files: FileSystem = LOCAL

    def __len__(self):
        return len(self.records)

    def read(self, i: int) -> bytes:
        """The encoded image of record `i`; ``ValueError`` for a record that has none."""
        images = self._values(i, self.image_key, "bytes")
        if len(images) != 1:
            raise ValueError(
                f"{self.where(i)} has {len(images)} images in {self.image_key!r}; expected 1"
            )
        return images[0]

    def read_labels(self, i: int) -> tuple[int, ...]:
        """The labels of record `i`, from 0; ``ValueError`` for a record that has none."""
        labels = self._values(i, self.label_key, "int64")
        if min(labels) < self.first_label:
            raise ValueError(
                f"{self.where(i)} has the label {min(labels)}, but labels count from "
                f"{self.first_label} in {self.label_key!r}"
            )
        return tuple(label - self.first_label for label in labels)

    def where(self, i: int) -> str:
        """The file of record `i` and its number in it."""
        return self.records.where(i)

    def take(self, indices) -> ImageRecords:
        """The records at these indices, in this order."""
        return replace(self, records=self.records.take(np.asarray(indices)))

    def _values(self, i, key, kind):
        try:
            features = parse_example(self.records.read(i, self.files))
        except ValueError as error:
            where = self.where(i)
            if str(error).startswith(where):
                raise
            raise ValueError(f"{where} is not a tf.train.Example: {error}") from error
        actual_kind, values = features.get(key, ("", ()))
        if actual_kind != kind or not values:
            keys = ", ".join(f"{name!r} ({k or 'empty'})" for name, (k, _) in features.items())
            raise ValueError(
                f"{self.where(i)} has no {key!r} ({kind}); its keys are {keys or 'none'}"
            )
        return values


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images of one size: uint8 (images, height, width, 3)."""

    pixels: np.ndarray
    numbers: Sequence[int] | None = None  # of each in the original array; None: 0, 1, ...

    def __len__(self):
        return len(self.pixels)

    def read(self, i: int) -> np.ndarray:
        """The pixels of image `i`: uint8 (height, width, 3)."""
        return self.pixels[i]

    def where(self, i: int) -> str:
        """The number of the image in the original array."""
        return str(i if self.numbers is None else self.numbers[i])

    def take(self, indices) -> ImageArray:
        """The images at these indices, in this order."""
        indices = np.asarray(indices)
        numbers = indices if self.numbers is None else np.asarray(self.numbers)[indices]
        return ImageArray(self.pixels[indices], numbers)


class DecodedImage(NamedTuple):
    """A decoded image."""

    identifier: str  # path, record or number, for messages and tables
    pixels: np.ndarray  # uint8 (height, width, 3), RGB
    labels: tuple[int, ...]  # class numbers; empty for images without labels


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images by index, and their labels.

    >>> pixels = np.zeros((3, 8, 8, 3), np.uint8)
    >>> images = LabeledImages("x", ("cat", "dog"), ImageArray(pixels), np.array([0, 1, 1]))
    >>> [(image.identifier, image.pixels.shape, image.labels) for image in images.take([2])]
    [('2', (8, 8, 3), (1,))]
    """

    name: str  # for messages: the path, and the split
    classes: tuple[str, ...] | None  # None if the data has no class names
    storage: ImageFiles | ImageRecords | ImageArray
    # int32 (images,), or (images, most) padded with -1: several labels. None if they are unknown:
    # the images have no labels, or the labels are in the records and not read yet.
    known_labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()  # what of the data is not used, and why: one line each
    skipped: tuple[str, ...] = ()  # images that cannot be decoded and are left out

    def __len__(self):
        return len(self.storage)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int32 (images,), or (images, most) padded with -1 for several labels; None without
        labels. Records without an index are all read the first time.
        """
        if self.known_labels is not None or not isinstance(self.storage, ImageRecords):
            return self.known_labels
        rows = [self.storage.read_labels(i) for i in range(len(self))]
        return pad_labels(rows)

    def labels_of(self, i: int) -> tuple[int, ...]:
        """The class numbers of image `i`; empty without labels."""
        known = self._read_so_far()
        if known is None:
            is_record = isinstance(self.storage, ImageRecords)
            return self.storage.read_labels(i) if is_record else ()
        return tuple(int(n) for n in np.atleast_1d(known[i]) if n >= 0)

    def _read_so_far(self):
        return self.__dict__.get("labels", self.known_labels)  # of the cached property

    def where(self, i: int) -> str:
        """What names image `i` in messages: its path, its record, or its number."""
        return self.storage.where(i)

    def stored(self, i: int) -> bytes | np.ndarray:
        """Image `i` as it is stored: encoded, or its pixels."""
        return self.storage.read(i)

    def pixels(self, i: int, *, ignore_exif: bool = False) -> np.ndarray:
        """Image `i` decoded: uint8 (height, width, 3), RGB, upright unless `ignore_exif`.

        Raises ``ValueError``, which names it, if it cannot be read or decoded.
        """
        try:
            stored = self.stored(i)
            is_array = isinstance(stored, np.ndarray)
            return stored if is_array else decode_image(stored, ignore_exif=ignore_exif)
        except (OSError, ValueError) as error:
            where = self.where(i)
            text = str(error)
            raise ValueError(text if text.startswith(where) else f"{where}: {text}") from error

    def take(self, indices) -> LabeledImages:
        """Only the images at these indices, in this order."""
        indices = np.asarray(indices, np.int64)
        known = self._read_so_far()
        labels = None if known is None else known[indices]
        return replace(self, storage=self.storage.take(indices), known_labels=labels)

    def decoded(self, *, ignore_exif: bool = False) -> Iterator[DecodedImage]:
        """Yields every image in order; ``ValueError``, which names it, if it cannot be decoded."""
        for i in range(len(self)):
            pixels = self.pixels(i, ignore_exif=ignore_exif)
            yield DecodedImage(self.where(i), pixels, self.labels_of(i))

    def __iter__(self):
        return self.decoded()


def numbered_classes(name: str, last: int, first: int = 0) -> list[str]:
    """The names of classes that have only numbers, `first` to `last`.

    Raises ``ValueError``, which starts with `name`, for identifiers, dates and other large numbers.

    >>> numbered_classes("x", 2)
    ['0', '1', '2']
    """
    if last > _LARGEST_NUMBER:
        raise ValueError(
            f"{name} has the label {last}: labels that are numbers are class numbers, without gaps "
            f"and at most {_LARGEST_NUMBER:,}; number the classes, or give names instead"
        )
    return [str(n) for n in range(first, last + 1)]


def pad_labels(rows, most: int = 0) -> np.ndarray:
    """int32 labels (images,) of rows with one label each, else (images, most) padded with -1.

    `most` is the number of labels to pad to; 0 for the largest of these rows.

    >>> pad_labels([(0, 2), (1,)]).tolist()
    [[0, 2], [1, -1]]
    """
    counts = np.array([len(row) for row in rows])
    values = np.array([label for row in rows for label in row], np.int32)
    return pad_flat_labels(values, counts, most)


def pad_flat_labels(values: np.ndarray, counts: np.ndarray, most: int = 0) -> np.ndarray:
    """As :func:`pad_labels`: all rows concatenated, and the number of labels of each."""
    most = most or int(counts.max())
    if most == 1:
        return values.astype(np.int32)
    table = np.full((len(counts), most), -1, np.int32)
    table[np.arange(most) < counts[:, None]] = values
    return table
