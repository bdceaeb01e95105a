"""Labelled images that can be had by number: what a source of them is, its halves, its corrupt."""

import re
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Source:
    """Labelled images that can be had by index, in a graph.

    `read` takes a scalar index and returns what `shape` and `crop` take: `shape` gives its int32
    (height, width, channels) without decoding, and `crop` its pixels in a window (y, x, height,
    width), as uint8 RGB. What `read` returns is an encoded image (a string) or its pixels.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 [examples], or [examples, most] padded with -1 for several an image
    read: Callable
    shape: Callable
    crop: Callable
    skipped: tuple[str, ...] = ()  # images that could not be decoded
    where: Callable = str  # of an index, in Python: what to call the image in a message

    @property
    def examples(self):
        """How many images."""
        return len(self.labels)

    @property
    def is_multi_label(self):
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def take(self, indices):
        """The same source with only these examples, in this order."""
        indices = np.asarray(indices)
        moved = tf.constant(indices)

        def read(i):  # no lambda: AutoGraph cannot tell two of one statement apart, and warns
            return self.read(moved[i])

        def where(i):
            return self.where(indices[i])

        return replace(self, labels=self.labels[indices], read=read, where=where)


def of_encoded(name, classes, labels, read, where):
    """A :class:`Source` of encoded images (JPEG, PNG, ...), which `read` reads by index."""
    return Source(
        name, tuple(classes), labels, read, shape=_encoded_shape, crop=_decode_crop, where=where
    )


def of_files(name, classes, labels, paths, called):
    """A :class:`Source` of image files; `called` has what to call each of them in a message."""
    files = tf.constant(paths)

    def read(i):
        return tf.io.read_file(files[i])

    return of_encoded(name, classes, labels, read, where=called.__getitem__)


def pad_labels(values, counts, most):
    """int32 labels (images,) where `most` is 1, else (images, most) padded with -1.

    `values` are those of all images, one after the other; `counts` how many of them each has.
    """
    if most == 1:
        return values.astype(np.int32)
    table = np.full((len(counts), most), -1, np.int32)
    table[np.arange(most) < counts[:, None]] = values
    return table


def split(source, holdout, seed):
    """(training, evaluation) parts of one source; the latter has a share of every class.

    Of images with several labels it has a share of all of them.
    """
    random = np.random.default_rng(seed)
    groups = {"": np.arange(source.examples)}
    if not source.is_multi_label:
        groups = {
            f"class {name!r}": np.flatnonzero(source.labels == label)
            for label, name in enumerate(source.classes)
        }
    held = []
    for group, own in groups.items():
        if len(own) < 2:
            raise ValueError(
                f"{source.name}: {group} has {len(own)} image; it needs two at least, one "
                "to train on and one to evaluate on"
            )
        held.append(random.permutation(own)[: max(1, round(holdout * len(own)))])
    held = np.sort(np.concatenate(held))
    kept = np.setdiff1d(np.arange(source.examples), held)
    return source.take(kept), source.take(held)


def looked_at(source, indices):
    """Yields (index, encoded bytes, (height, width), None) of each image, in order of the indices.

    An image that cannot be read or decoded, or that decodes to another size than its header says,
    is (index, None, None, why). Pixels come encoded as PNG, without loss.
    """

    def decode(i):
        stored = source.read(i)
        said = source.shape(stored)[:2]
        found = tf.shape(source.crop(stored, tf.concat([[0, 0], said], 0)))[:2]
        encoded = stored if stored.dtype == tf.string else tf.io.encode_png(stored)
        return encoded, tf.stack([said, found])

    indices = np.asarray(indices, np.int64)
    data = tf.data.Dataset.from_tensor_slices(indices).map(decode, tf.data.AUTOTUNE)
    images = data.as_numpy_iterator()
    for i in indices.tolist():
        try:
            encoded, sizes = next(images)
        except tf.errors.OpError as error:  # of this image: the next one follows it
            yield i, None, None, in_a_line(error)
            continue
        said, found = sizes.tolist()
        if said != found:
            yield i, None, None, f"decodes to {found} pixels, its header says {said}"
        else:
            yield i, encoded, tuple(said), None


def corrupt(source, indices=None):
    """Yields (index, why) of each of the `indices` (all) whose image cannot be read or decoded."""
    indices = range(source.examples) if indices is None else indices
    for i, _, _, why in looked_at(source, indices):
        if why is not None:
            yield i, why


def too_many(limit, skipped, why):
    """The ``ValueError`` for more than `limit` corrupt images; `why` is of the last."""
    return ValueError(
        f"More than {limit} images cannot be decoded, so something is wrong with the "
        f"data: {', '.join(skipped)} ({why}). Repair or remove them, or raise the limit"
    )


def without_corrupt(source, limit):
    """The source without the images that cannot be decoded, which it has as `skipped`.

    Raises ``ValueError`` for more than `limit` of them.
    """
    skipped = []
    for i, why in corrupt(source):
        skipped.append(i)
        if len(skipped) > limit:
            raise too_many(limit, [source.where(i) for i in skipped], why)
    kept = source.take(np.setdiff1d(np.arange(source.examples), skipped))
    return replace(kept, skipped=tuple(source.where(i) for i in skipped))


def slice_window(image, window):
    """The pixels of an image in a window (y, x, height, width)."""
    begin, size = tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0)
    return tf.slice(image, begin, size)


def _is_jpeg(encoded):
    return tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"


def _decode(encoded):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def _encoded_shape(encoded):
    return tf.cond(
        _is_jpeg(encoded),
        lambda: tf.image.extract_jpeg_shape(encoded),
        lambda: tf.shape(_decode(encoded)),
    )


def _decode_crop(encoded, window):
    return tf.cond(
        _is_jpeg(encoded),
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3),
        lambda: slice_window(_decode(encoded), window),
    )


def in_a_line(error):
    """The part of a TensorFlow error's message that is meant for people."""
    message = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", error.message, flags=re.DOTALL).strip()
    return message.splitlines()[0] if message else type(error).__name__
