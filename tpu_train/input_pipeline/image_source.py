"""Indexed, labeled images; splitting them; finding those that cannot be decoded."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.holdout import hold_out
from keras_effnet.datasets.undecodable import too_many_undecodable
from tpu_train.input_pipeline.encoded_images import decode_crop, encoded_shape


@dataclass(frozen=True)
class ImageSource:
    """Labeled images that a TensorFlow graph reads by index.

    `read` takes a scalar index and returns a stored image: encoded (a string) or its pixels.
    `shape` returns the int32 (height, width, channels) of a stored image, without decoding a JPEG,
    and `crop` its pixels in a window (y, x, height, width), as uint8 RGB. Both turn the image
    upright by its EXIF rotation; see :func:`without_exif`.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 (examples,), or (examples, most) padded with -1: several labels
    read: Callable
    shape: Callable
    crop: Callable
    skipped: tuple[str, ...] = ()  # images that could not be decoded
    notes: tuple[str, ...] = ()  # what else is not used, and why: one line each
    where: Callable = str  # the name of the image at a Python index, for messages
    may_skip: int = 0  # images that may be undecodable when they are read, at most
    is_encoded: bool = False  # whether `read` returns encoded images, which may have EXIF
    # index -> (stored image, float32 (classes,)): pseudo-labeled images, with their scores
    read_scored: Callable | None = None
    fingerprint: str = ""  # of pseudo-labeled images: of all their scores
    unlabeled: ImageSource | None = None  # pseudo-labeled images that training adds to each batch

    @property
    def examples(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def take(self, indices) -> ImageSource:
        """The source with only the images at these indices, in this order."""
        indices = np.asarray(indices)
        graph_indices = tf.constant(indices)

        def read(i):  # not a lambda: AutoGraph warns if a statement has two
            return self.read(graph_indices[i])

        def read_scored(i):
            return self.read_scored(graph_indices[i])

        def where(i):
            return self.where(indices[i])

        return replace(
            self,
            labels=self.labels[indices],
            read=read,
            where=where,
            read_scored=self.read_scored and read_scored,
        )


def substitutes(source: ImageSource, damaged: Sequence[int]) -> dict[int, int]:
    """For each image that cannot be decoded, another one with the same labels: the next.

    Raises ``ValueError`` if all images with these labels are damaged.
    """
    chosen = {}
    for i in damaged:
        same = (source.labels == source.labels[i]).reshape(source.examples, -1).all(-1)
        candidates = np.setdiff1d(np.flatnonzero(same), damaged)
        if not len(candidates):
            raise ValueError(
                f"{source.name}: no image with the labels of {source.where(i)} can be decoded"
            )
        chosen[i] = int(candidates[np.searchsorted(candidates, i) % len(candidates)])
    return chosen


def of_encoded(name, classes, labels, read, where):
    """An :class:`ImageSource` of encoded images (JPEG, PNG, ...), which `read` reads by index."""
    return ImageSource(
        name,
        tuple(classes),
        labels,
        read,
        shape=encoded_shape,
        crop=decode_crop,
        where=where,
        is_encoded=True,
    )


def without_exif(source: ImageSource) -> ImageSource:
    """The source with its images as they are stored: EXIF rotation is ignored."""
    if not source.is_encoded:
        return source
    return replace(
        source,
        shape=functools.partial(encoded_shape, ignore_exif=True),
        crop=functools.partial(decode_crop, ignore_exif=True),
    )


def of_files(name, classes, labels, paths, names):
    """An :class:`ImageSource` of image files; `names` has the name of each for messages."""
    files = tf.constant([os.fsencode(path) for path in paths])  # names may be any bytes

    def read(i):
        return tf.io.read_file(files[i])

    return of_encoded(name, classes, labels, read, where=names.__getitem__)


def split(source: ImageSource, holdout: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """(training, evaluation) splits of a source, as
    :func:`keras_effnet.datasets.holdout.hold_out` splits it.
    """
    labels, classes = source.labels, source.classes
    kept, held_out = hold_out(source.name, labels, classes, holdout, seed)
    return source.take(kept), source.take(held_out)


def decode_all(source: ImageSource, indices) -> Iterator[tuple]:
    """Yields (index, encoded bytes, (height, width), None) of each image, in order of the indices.

    An image that cannot be read or decoded, or whose decoded size differs from its header, yields
    (index, None, None, error). Pixels are encoded as PNG, without loss.
    """

    def decode(i):
        stored = source.read(i)
        header = source.shape(stored)[:2]
        decoded = tf.shape(source.crop(stored, tf.concat([[0, 0], header], 0)))[:2]
        encoded = stored if stored.dtype == tf.string else tf.io.encode_png(stored)
        return encoded, tf.stack([header, decoded])

    indices = np.asarray(indices, np.int64)
    data = tf.data.Dataset.from_tensor_slices(indices).map(decode, tf.data.AUTOTUNE)
    images = data.as_numpy_iterator()
    for i in indices.tolist():
        try:
            encoded, sizes = next(images)
        except tf.errors.OpError as error:  # the iterator continues with the next image
            yield i, None, None, error_line(error)
            continue
        header, decoded = sizes.tolist()
        if header != decoded:
            yield i, None, None, f"decodes to {decoded} pixels, its header says {header}"
        else:
            yield i, encoded, tuple(header), None


def corrupt(source: ImageSource, indices=None) -> Iterator[tuple[int, str]]:
    """Yields (index, error) of each image that cannot be read or decoded, of `indices` or all."""
    indices = range(source.examples) if indices is None else indices
    for i, _, _, error in decode_all(source, indices):
        if error is not None:
            yield i, error


def without_corrupt(source: ImageSource, limit: int) -> ImageSource:
    """The source without the images that cannot be decoded; `skipped` has their names.

    Raises ``ValueError`` for more than `limit` of them.
    """
    skipped = []
    for i, error in corrupt(source):
        skipped.append(i)
        if len(skipped) > limit:
            raise too_many_undecodable(limit, [source.where(i) for i in skipped], error)
    kept = source.take(np.setdiff1d(np.arange(source.examples), skipped))
    for label in np.setdiff1d(source.labels[source.labels >= 0], kept.labels):
        raise ValueError(
            f"{source.name}: no image of the class {source.classes[label]} can be decoded: "
            f"{', '.join(source.where(i) for i in skipped[:3])}. Repair them, or remove the class"
        )
    return replace(kept, skipped=(*source.skipped, *(source.where(i) for i in skipped)))


def error_line(error: tf.errors.OpError) -> str:
    """The first line of a TensorFlow error, without node and operation names."""
    message = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", error.message, flags=re.DOTALL).strip()
    message = message.partition("ValueError: ")[2] or message  # of a Python function in the graph
    return message.splitlines()[0] if message else type(error).__name__
