"""Calibration and evaluation images: any data set of ``keras_effnet.datasets``, or arrays, as uint8
RGB in the size of a model, cropped and resized as its preprocessing says, or else stretched.

The stretch is that of ``tf.image.resize``, and of ``cv2.resize`` with INTER_LINEAR, at pixel
centers, to within one gray level. MediaPipe's ImageClassifier stretches, too (no crop, no
antialiasing), but at pixel corners; ``tflite/images/mediapipe.py`` reproduces it exactly. In an app
built on MediaPipe, images are therefore shifted by half a pixel of the new size, and the crop and
antialiasing of the model's preprocessing are missing. The float and the converted model get equal
pixels here, so their comparison holds; top-1 is that of this preprocessing. For the accuracy with
MediaPipe, prepare the images with ``mediapipe.stretch`` and give them as an array.

Photos are turned upright by their EXIF rotation. This module does not need TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.datasets.arrays import ArrayDataset, from_arrays
from keras_effnet.datasets.dataset import ACCEPTED, open_dataset
from keras_effnet.datasets.folders import FolderDataset, is_leftover
from keras_effnet.datasets.labeled_images import ImageRecords, LabeledImages
from keras_effnet.datasets.splits import ALL, TRAINING, evaluation_split
from keras_effnet.evaluation.class_matching import match_classes
from keras_effnet.image_decoding import IMAGE_ENDINGS
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.model_input import ImageInput


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images, and labels of any kind, in memory; :func:`load_images` checks them."""

    name: str  # for messages
    images: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in the size of a model, with labels and origin."""

    images: np.ndarray  # uint8 (n, height, width, 3 or 1)
    labels: np.ndarray | None  # int64 (n,), in [0, classes)
    class_names: tuple[str, ...] | None  # of the data
    skipped: tuple[str, ...]  # files or records that could not be decoded
    source: str  # for reports: "photos/ (512 of 2,000 images, 10 classes)"
    files: tuple[str, ...] = ()  # of each image: its path relative to the folder, or
    # "train-00000-of-00008 record 17"
    reasons: tuple[str, ...] = ()  # why each of `skipped` could not be decoded; names it
    left_out: tuple[str, ...] = ()  # what else of the data is not used, and why: one line each

    def notes(self) -> list[str]:
        """Lines for the user: where the images are from, and which files were not read and why."""
        skipped = [f"skipped, cannot be decoded: {reason}" for reason in self.reasons]
        return [f"  {line}" for line in (self.source, *skipped, *self.left_out)]


def open_source(
    source: str | os.PathLike[str], *, evaluation: bool = False
) -> LabeledImages | Arrays:
    """Opens the images of a path for :func:`load_images`; no image is decoded yet.

    Of data with splits, these are the training images, or for `evaluation` those of the validation
    split, else minival, else test. Raises ``ValueError`` for a path without images, and for splits
    of which none is meant.
    """
    path = os.fspath(source)
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise ValueError(f"data {path!r} is neither a folder nor a file: give {ACCEPTED}")
    dataset = open_dataset(path)
    if isinstance(dataset, ArrayDataset):
        images, labels, names = dataset.read()
        if names is None:
            return Arrays(path, images, labels)
        return from_arrays(path, images, labels, names)
    split, *others = _by_preference(path, dataset.splits, evaluation)
    (images,) = dataset.open(split)
    if isinstance(dataset, FolderDataset):
        _check_not_mixed(images, dataset)
    notes = images.notes
    if others:
        notes = (f"the {split} images; not used: {', '.join(others)}", *notes)
    if evaluation and split == TRAINING:
        notes = ("the training images: there are no validation or test images", *notes)
    return replace(images, notes=notes)


def _check_not_mixed(images, dataset):
    """Raises ``ValueError`` for images beside folders of images: either may be meant."""
    strays = [name for name in dataset.listed if "/" not in name and not is_leftover(name)]
    strays = [name for name in strays if name.lower().endswith(IMAGE_ENDINGS)]
    if strays and dataset.splits == (ALL,) and images.classes is not None:
        raise ValueError(
            f"{images.name} has both images ({strays[0]}) and folders of images "
            f"({images.classes[0]}): give a folder of images, or one with one folder per class and "
            "no other images"
        )


def _by_preference(path, splits, evaluation):
    """The splits, beginning with the one to use."""
    wanted = evaluation_split(splits) if evaluation else None
    if wanted is None and TRAINING in splits:
        wanted = TRAINING
    if wanted is None and len(splits) > 1:
        raise ValueError(
            f"{path} has the splits {', '.join(splits)}: choose one, e.g. "
            f"{os.path.join(path, splits[0])}"
        )
    return sorted(splits, key=lambda split: split != wanted)


def load_images(
    source,
    image_size,
    *,
    evaluation=False,
    preprocessing=None,
    class_names=None,
    limit=None,
    max_corrupt=10,
    any_labels=False,
):
    """An :class:`ImageSet` of uint8 images (n, height, width, channels), in a fixed order.

    Args:
        source: one of

            - any data set of ``keras_effnet.datasets``: a folder of images, or with one folder per
              class; a folder of TFRecord shards, or FOLDER/SPLIT; ``tfds:NAME`` or
              ``tfds:NAME/SPLIT``; a CSV, JSON or JSON lines manifest
            - an .npz file with ``images`` and optionally ``labels`` and ``classes`` (names)
            - an array (n, height, width, 1 or 3) with values in [0, 255], or a pair (images,
              labels)
            - the result of :func:`open_source`
        image_size: (height, width) of the model, for RGB; (height, width, 1) for grey images.
        evaluation: of data with splits, load the validation (else minival, else test) images
            instead of the training images.
        preprocessing: a ``keras_effnet.Preprocessing``: how images are cropped and resized; None
            stretches them.
        class_names: the model's classes in order. The names of the data's classes are matched with
            them, as by :func:`keras_effnet.evaluation.class_matching.match_classes`. Other names
            for the same number of classes of shards and TensorFlow Datasets are accepted in their
            own order.
        limit: maximum number of images, spread evenly over all classes or records; the others are
            not read.
        max_corrupt: number of images that may fail to decode. They are skipped and named.
        any_labels: the labels of arrays may be any numbers (n, ...), for a metric that takes them,
            e.g. a map for each image.

    Raises:
        ValueError: no images; values scaled to [0, 1] or outside [0, 255]; another shape; labels
            that do not fit; shards that are missing, truncated or have other keys; too many corrupt
            images.
    """
    height, width, channels = (*image_size, 3)[:3]
    stated = preprocessing or Preprocessing(height, None, "bilinear")
    stated = replace(stated, image_size=height)
    prepare = ImageInput(stated, height, width, channels, channels_first=False).prepare
    if limit is not None and limit < 1:
        raise ValueError(f"the limit must be at least 1 image, got {limit}")
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source, evaluation=evaluation)
    if isinstance(source, LabeledImages):
        return _from_labeled(source, prepare, class_names, limit, max_corrupt)
    if not isinstance(source, Arrays):
        source = Arrays("array", *(source if _is_pair(source) else (source, None)))
    return _from_arrays(source, prepare, limit, any_labels)


def _is_pair(source):
    """Whether arrays are (images, labels), and not a list of images."""
    several = isinstance(source, (tuple, list)) and len(source) == 2
    return several and (isinstance(source, tuple) or np.ndim(source[0]) == 4)


def match_names(images: LabeledImages, class_names) -> np.ndarray:
    """The index in the model's `class_names` of each class of the data: int64 (classes,).

    Raises ``ValueError`` for a class that is none of them, or several.
    """
    names, class_names = images.classes, tuple(class_names)
    try:
        return np.array(match_classes(names, len(class_names), class_names).outputs, np.int64)
    except ValueError as error:
        # records have class numbers: the names of n01440764 and tench need not be the same
        is_numbered = isinstance(images.storage, ImageRecords) and len(names) == len(class_names)
        pairs = zip(names, class_names)
        if is_numbered and all(name == own or name not in class_names for name, own in pairs):
            return np.arange(len(names))
        raise ValueError(f"{images.name}: {error}") from error


def fit_labels(
    image_set: ImageSet, classes: int, class_names, log: Callable[[str], None]
) -> ImageSet:
    """The image set with labels that are a model's classes, or None, and the names of all of these.

    Args:
        image_set: the images.
        classes: number of classes of the model.
        class_names: names that the images were loaded with. Without names, the classes of the data
            are matched with ImageNet's if the model has as many outputs, or else accepted as the
            model's if their number fits; if not, a line is logged.
        log: called with a line of text.

    Raises:
        ValueError: labels outside [0, classes).
    """
    labels, names = image_set.labels, image_set.class_names
    line = f"  {len(names or ())} classes of images, {classes} of the model: top-1 is not measured"
    if labels is not None and names is not None and class_names is None:
        try:
            match = match_classes(names, classes)
            return replace(
                image_set, labels=np.array(match.outputs)[labels], class_names=match.names
            )
        except ValueError:  # other classes than ImageNet's, or another number
            if len(names) != classes:
                log(line)
                return replace(image_set, labels=None, class_names=None)
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{image_set.source}: labels must be in 0 to {classes - 1} for a model with {classes} "
            f"classes, got {labels.min()} to {labels.max()}"
        )
    return replace(image_set, class_names=class_names or names)


def _from_labeled(images, prepare, class_names, limit, max_corrupt):
    names, outputs = images.classes, None
    if names is not None and class_names is not None:
        outputs = match_names(images, class_names)  # errors before all images are decoded
    chosen = images.take(spread(len(images), limit))
    pixels, kept, skipped, reasons = [], [], [], []
    for i in range(len(chosen)):
        labels = chosen.labels_of(i)  # not skipped: a record without a label is no damaged image
        try:
            pixels.append(prepare(chosen.pixels(i)))
            kept.append((_short_name(chosen, i), labels))
        except ValueError as error:
            skipped.append(chosen.where(i))
            reasons.append(str(error))
            if len(skipped) > max_corrupt:
                raise ValueError(
                    f"More than {max_corrupt} images cannot be decoded: {', '.join(skipped)} "
                    f"({error}). Repair or remove them, or raise max_corrupt"
                ) from error
    if not pixels:
        raise ValueError(
            f"{images.name}: none of its {len(skipped)} images can be decoded "
            f"({'; '.join(reasons)})"
        )
    files, rows = zip(*kept)
    source = _describe(images.name, len(pixels), len(images), names and len(names))
    labels = None
    if max(map(len, rows)) > 1:
        source += ", several labels per image: not used"
    elif min(map(len, rows)) == 1:
        labels = np.array(rows, np.int64)[:, 0]
        if names is not None and labels.max() >= len(names):  # of another label file
            names = None
        elif outputs is not None:
            labels = outputs[labels]
    return ImageSet(
        np.stack(pixels), labels, names, tuple(skipped), source, files, tuple(reasons), images.notes
    )


def _short_name(images, i):
    """The name of an image without the folder of its data."""
    name, folder = images.where(i), os.path.join(images.name, "")
    if isinstance(images.storage, ImageRecords):
        return os.path.basename(name)
    return name[len(folder) :] if name.startswith(folder) else name


def spread(count, limit):
    """At most `limit` of `count` indices, evenly spread."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.arange(limit) * count // limit


def _describe(name, used, total, classes=None):
    of = f"{used:,} of {total:,} images" if used < total else f"{used:,} images"
    return f"{name} ({of}{f', {classes} classes' if classes else ''})"


def _from_arrays(arrays, prepare, limit, any_labels):
    name, images, labels = arrays.name, np.asarray(arrays.images), arrays.labels
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.shape[0]:
        raise ValueError(
            f"{name}: images have shape {images.shape}; give (n, height, width, 3), n at least 1"
        )
    if images.dtype.kind not in "uif":
        raise ValueError(f"{name}: images are {images.dtype}; give numbers in [0, 255]")
    if labels is not None:
        labels = np.asarray(labels)
        if any_labels and labels.shape[:1] == images.shape[:1] and labels.dtype.kind in "uifb":
            pass
        elif labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
            raise ValueError(
                f"{name}: labels are {labels.dtype} {labels.shape} for {len(images)} images; give "
                "one integer per image"
            )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # also for NaN
        raise ValueError(
            f"{name}: values are between {low:g} and {high:g}; give pixels in [0, 255]"
        )
    if high <= 1:
        raise ValueError(
            f"{name}: values are between {low:g} and {high:g}, so they seem to be scaled to "
            "[0, 1]; give pixels in [0, 255], the model scales them itself"
        )
    chosen = spread(len(images), limit)
    pixels = np.rint(images[chosen]).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return ImageSet(
        np.stack([prepare(image) for image in pixels]),
        None if labels is None else _chosen_labels(labels[chosen]),
        None,
        (),
        _describe(name, len(chosen), len(images)),
    )


def _chosen_labels(labels):
    return labels.astype(np.int64) if labels.dtype.kind in "ui" else labels
