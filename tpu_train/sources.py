"""Where labelled images come from: folders, arrays, files; each image can be had by its index."""

import concurrent.futures
import os
from dataclasses import dataclass
from typing import Callable

import numpy as np
import tensorflow as tf

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLITS = (("train", "validation"), ("train", "val"), ("train", "test"))


@dataclass(frozen=True)
class Source:
    """Labelled images that can be had by index, in a graph.

    `read` takes a scalar index and returns what `shape` and `crop` take: `shape` gives its int32
    (height, width, channels) without decoding, and `crop` its pixels in a window (y, x, height,
    width), as uint8 RGB.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 [examples]
    read: Callable
    shape: Callable
    crop: Callable
    skipped: tuple[str, ...] = ()  # files that could not be decoded

    @property
    def examples(self):
        """How many images."""
        return len(self.labels)

    def take(self, indices):
        """The same source with only these examples, in this order."""
        indices = np.asarray(indices)
        moved = tf.constant(indices)
        return Source(
            self.name,
            self.classes,
            self.labels[indices],
            lambda i: self.read(moved[i]),
            self.shape,
            self.crop,
            self.skipped,
        )


def from_arrays(name, images, labels, classes):
    """A :class:`Source` of uint8 images (examples, height, width, 1 or 3) with integer labels.

    Raises ``ValueError`` for another shape, type or range, or labels that the classes do not have.
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
            "integer an image"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{name}: labels run from {labels.min()} to {labels.max()}, but there are "
            f"{len(classes)} classes (0 to {len(classes) - 1})"
        )
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    pixels = tf.constant(images)
    return Source(
        name,
        tuple(classes),
        labels.astype(np.int32),
        read=lambda i: pixels[i],
        shape=tf.shape,
        crop=_slice,
    )


def from_folder(folder, *, max_corrupt=10):
    """A :class:`Source` of a folder with one folder of images a class; every file is decoded once.

    Raises ``ValueError`` for a folder without images, with one class, or with more than
    `max_corrupt` files that cannot be decoded (they are skipped up to there, and named).
    """
    folder = os.fspath(folder)
    classes = sorted(
        e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")
    )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            os.path.join(root, file)
            for root, _, files in os.walk(os.path.join(folder, name))
            for file in files
            if file.lower().endswith(IMAGE_ENDINGS)
        )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(
            f"{folder} has no images: it needs one folder a class, with {'/'.join(IMAGE_ENDINGS)} "
            "files in it"
        )
    with_images = sorted(set(labels))
    if len(with_images) < 2:
        raise ValueError(
            f"{folder} has images of one class only ({classes[with_images[0]]}); "
            "it needs one folder a class, and two classes at least"
        )
    skipped = _corrupt(paths, max_corrupt)
    kept = [(p, with_images.index(c)) for p, c in zip(paths, labels) if p not in skipped]
    files = tf.constant([p for p, _ in kept])
    return Source(
        folder,
        tuple(classes[c] for c in with_images),
        np.array([c for _, c in kept], np.int32),
        read=lambda i: tf.io.read_file(files[i]),
        shape=_encoded_shape,
        crop=_decode_crop,
        skipped=tuple(skipped),
    )


def _corrupt(paths, limit):
    """The files that cannot be decoded; decoding a file is the only way to know."""

    def problem(path):
        try:
            tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        except tf.errors.OpError as error:
            return error.message.split("[")[0].strip().splitlines()[0]
        return None

    skipped = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, why in zip(paths, pool.map(problem, paths)):
            if why is None:
                continue
            skipped.append(path)
            if len(skipped) > limit:
                pool.shutdown(wait=False, cancel_futures=True)
                raise ValueError(
                    f"More than {limit} images cannot be decoded, so something is wrong with the "
                    f"data: {', '.join(skipped)} ({why}). Repair or remove them, or raise the limit"
                )
    return skipped


def _slice(image, window):
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
        lambda: _slice(_decode(encoded), window),
    )


def open_data(data, *, holdout, seed, max_corrupt=10):
    """(training source, evaluation source) of what ``--data`` names.

    `data` is a folder of class folders (or one that has such folders ``train`` and ``validation``,
    ``val`` or ``test``), or an ``.npz`` file with ``images``, ``labels`` and, if it likes,
    ``classes``. Without an evaluation set of its own, a `holdout` share of every class is held out,
    the same one for the same seed. Raises ``ValueError`` when nothing can be trained on there.
    """
    data = os.fspath(data)
    if not 0 < holdout < 1:
        raise ValueError(f"holdout {holdout} is no share: give one between 0 and 1, e.g. 0.2")
    if os.path.isdir(data):
        for train, evaluation in _SPLITS:
            halves = os.path.join(data, train), os.path.join(data, evaluation)
            if all(map(os.path.isdir, halves)):
                sources = tuple(from_folder(half, max_corrupt=max_corrupt) for half in halves)
                if sources[0].classes != sources[1].classes:
                    odd = sorted(set(sources[0].classes) ^ set(sources[1].classes))
                    raise ValueError(
                        f"{halves[0]} and {halves[1]} differ in their classes: {', '.join(odd)}"
                    )
                return sources
        return split(from_folder(data, max_corrupt=max_corrupt), holdout, seed)
    if not os.path.isfile(data):
        raise ValueError(
            f"data {data!r} is not there: give a folder with one folder of images a class, or an "
            ".npz file with the arrays images and labels"
        )
    return split(_from_npz(data), holdout, seed)


def _from_npz(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            names = arrays["classes"] if "classes" in arrays else range(int(labels.max()) + 1)
            return from_arrays(path, images, labels, [str(n) for n in names])
    except (OSError, KeyError, EOFError) as error:
        raise ValueError(
            f"{path} is not an .npz file with the arrays images and labels: {error}"
        ) from error


def split(source, holdout, seed):
    """(training, evaluation) parts of one source; the latter has a share of every class."""
    random = np.random.default_rng(seed)
    held = []
    for label, name in enumerate(source.classes):
        own = np.flatnonzero(source.labels == label)
        if len(own) < 2:
            raise ValueError(
                f"{source.name}: class {name!r} has {len(own)} image; it needs two at least, one "
                "to train on and one to evaluate on"
            )
        held.append(random.permutation(own)[: max(1, round(holdout * len(own)))])
    held = np.sort(np.concatenate(held))
    kept = np.setdiff1d(np.arange(source.examples), held)
    return source.take(kept), source.take(held)
