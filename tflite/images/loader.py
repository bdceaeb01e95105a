"""Loads calibration and evaluation images: from a folder, TFRecord shards, TensorFlow Datasets, an
.npz file or an array. They become uint8 RGB, cropped and resized as the model's preprocessing says,
or else stretched to the model's size.

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
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.image_decoding import decode_image, is_image_file
from keras_effnet.image_preprocessing import preprocess, resize
from keras_effnet.label_file import class_index
from keras_effnet.suggestions import unknown_name
from tflite.images import tfrecord
from tflite.images.tfrecord import open_records

_NAMED = 5  # files that are left out and named
_SPLITS = {"train", "training", "validation", "val", "test"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in the size of a model, with labels and origin."""

    images: np.ndarray  # uint8 (n, height, width, 3 or 1)
    labels: np.ndarray | None  # int64 (n,), in [0, classes)
    class_names: tuple[str, ...] | None  # of class folders, labels.txt, a TensorFlow Dataset
    skipped: tuple[str, ...]  # files or records that could not be decoded
    source: str  # for reports: "photos/ (512 of 2,000 images, 10 classes)"
    files: tuple[str, ...] = ()  # of each image: its path relative to the folder, or
    # "train-00000-of-00008 record 17"
    reasons: tuple[str, ...] = ()  # why each of `skipped` could not be decoded
    left_out: tuple[str, ...] = ()  # files of the folder that are not images

    def notes(self) -> list[str]:
        """Lines for the user: where the images are from, and which files were not read and why."""
        lines = [f"  {self.source}"]
        for path, reason in zip(self.skipped, self.reasons):
            named = reason if reason.startswith(path) else f"{path}: {reason}"
            lines.append(f"  skipped, cannot be decoded: {named}")
        if self.left_out:
            names = ", ".join(self.left_out[:_NAMED])
            more = ", ..." if len(self.left_out) > _NAMED else ""
            lines.append(f"  left out, not images: {len(self.left_out):,} files ({names}{more})")
        return lines


def check_source(source: str) -> None:
    """Raises ``ValueError`` for a folder without images, or another kind of file, before anything
    slow.
    """
    if os.path.isdir(source):
        if not tfrecord.find_shards(source):
            _find(source)
    elif os.path.exists(source):
        _require_npz(source)


def load_images(
    source,
    image_size,
    *,
    preprocessing=None,
    class_names=None,
    limit=None,
    max_corrupt=10,
    any_labels=False,
):
    """An :class:`ImageSet` of uint8 images (n, height, width, channels), in a fixed order.

    Args:
        source: one of

            - a folder of images, or with one folder per class (the classes are the sorted names);
              files of any format that Pillow reads, whatever their endings
            - a folder of TFRecord shards (``train-00000-of-00008``, as written by ``effnet-train
              prepare``): its ``train`` set or else its only one; FOLDER/validation for another
            - ``tfds:NAME`` or ``tfds:NAME/SPLIT`` (default: train) of TensorFlow Datasets
            - an .npz file with ``images`` and optionally ``labels``
            - an array (n, height, width, 1 or 3) with values in [0, 255], or a pair (images,
              labels)
        image_size: (height, width) of the model, for RGB; (height, width, 1) for grey images.
        preprocessing: a ``keras_effnet.Preprocessing``: how images are cropped and resized; None
            stretches them.
        class_names: the model's classes in order. Class folders, the shards' ``labels.txt`` and the
            names of a TensorFlow Dataset are matched with them. Other names for the same number of
            classes are accepted in their own order.
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
    height, width = image_size[:2]
    is_grey = tuple(image_size[2:]) == (1,)

    def prepare(image):
        image = _prepared(image, height, width, preprocessing)
        return _grey(image) if is_grey else image

    if limit is not None and limit < 1:
        raise ValueError(f"the limit must be at least 1 image, got {limit}")
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        records = open_records(path)
        if records is not None:
            return _from_records(records, prepare, class_names, limit, max_corrupt)
        if os.path.isdir(path):
            return _from_folder(path, prepare, class_names, limit, max_corrupt)
        _require_npz(path)
        images, labels = _read_npz(path)
        name = path
    else:
        images, labels = source if isinstance(source, (tuple, list)) else (source, None)
        name = "array"
    return _from_arrays(name, images, labels, prepare, limit, any_labels)


def fitting_labels(
    image_set: ImageSet, classes: int, class_names, log: Callable[[str], None]
) -> np.ndarray | None:
    """The labels of an image set, if they are labels of a model's classes; None if unknown.

    Args:
        image_set: the images.
        classes: number of classes of the model.
        class_names: names that the images were loaded with. Without names, class folders are
            accepted as the classes only if their number fits; otherwise a line is logged.
        log: called with a line of text.

    Raises:
        ValueError: labels outside [0, classes).
    """
    labels, folders = image_set.labels, image_set.class_names
    if folders is not None and class_names is None and len(folders) != classes:
        log(f"  {len(folders)} classes of images, {classes} of the model: top-1 is not measured")
        return None
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{image_set.source}: labels must be in 0 to {classes - 1} for a model with {classes} "
            f"classes, got {labels.min()} to {labels.max()}"
        )
    return labels


def _prepared(image, height, width, input_spec):
    """uint8 (height, width, 3), preprocessed as the weights need it, or else stretched."""
    if input_spec is None or height != width:
        return resize(image, height, width)
    return preprocess(image, replace(input_spec, image_size=height))


def _grey(image):
    """uint8 (height, width, 1) by ITU-R 601, as Pillow's and TensorFlow's; grey stays as it is."""
    weighted = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def _spread(count, limit):
    """At most `limit` of `count` indices, evenly spread."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.arange(limit) * count // limit


def _describe(name, used, total, classes=None):
    of = f"{used:,} of {total:,} images" if used < total else f"{used:,} images"
    return f"{name} ({of}{f', {classes} classes' if classes else ''})"


def _from_folder(folder, prepare, class_names, limit, max_corrupt):
    paths, names, others = _find(folder)
    labels = None
    if names is not None:
        classes = tuple(sorted(set(names))) if class_names is None else tuple(class_names)
        indices = {}
        for name in sorted(set(names)):
            if name not in classes:
                raise ValueError(f"{folder}: {unknown_name('class folder', name, classes)}")
            indices[name] = _only_index(name, classes, f"{folder}: class folder")
        labels = np.array([indices[name] for name in names])
    chosen = _spread(len(paths), limit)
    files = ((paths[i], paths[i], None if labels is None else labels[i]) for i in chosen)
    images, kept, labels, skipped, reasons = _decode_all(folder, files, prepare, max_corrupt)
    return ImageSet(
        images,
        labels,
        None if names is None else tuple(sorted(set(names))),
        skipped,
        _describe(folder, len(images), len(paths), names and len(set(names))),
        tuple(os.path.relpath(path, folder) for path in kept),
        reasons,
        tuple(os.path.relpath(path, folder) for path in others),
    )


def _from_records(records, prepare, class_names, limit, max_corrupt):
    def encoded(i):
        image, label = records.read(i)
        return records.where(i), image, label

    chosen = _spread(len(records), limit)
    images, kept, labels, skipped, reasons = _decode_all(
        records.name, map(encoded, chosen), prepare, max_corrupt
    )
    names = records.class_names
    source = _describe(records.name, len(images), len(records), names and len(names))
    if labels is None:
        source += ", several labels per image: not used"
    elif names is not None and labels.max() >= len(names):
        names = None
    elif names is not None and class_names is not None:
        labels = _class_indices(names, tuple(class_names), records.name)[labels]
    return ImageSet(images, labels, names, skipped, source, kept, reasons)


def _only_index(name, class_names, where):
    try:
        return class_index(name, class_names)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error


def _class_indices(names, class_names, source):
    """The index in `class_names` of each of the set's `names`."""
    positions = range(len(names))
    # a name at its own position may occur twice
    indices = [
        i
        if class_names[i : i + 1] == (name,)
        else _only_index(name, class_names, f"{source}: class")
        if name in class_names
        else None
        for i, name in enumerate(names)
    ]
    if None not in indices:
        return np.array(indices)
    missing = names[indices.index(None)]
    moved = [names[i] for i in positions if indices[i] not in (None, i)]
    if moved or len(names) != len(class_names):
        raise ValueError(
            f"{source}: {unknown_name('class', missing, class_names)}"
            + (f" ({moved[0]!r} is one of them, with another index)" if moved else "")
        )
    return np.array(positions)  # other names for the same classes: n01440764 for tench


def _decode_all(source, files, prepare, max_corrupt):
    """(images, their names, their labels or None, names of skipped images, the reasons) of rows
    (name, path or bytes, label).
    """
    images, kept, labels, skipped, reasons = [], [], [], [], []
    for name, encoded, label in files:
        try:
            images.append(prepare(decode_image(encoded)))
        except ValueError as error:
            skipped.append(name)
            reasons.append(str(error))
            if len(skipped) > max_corrupt:
                raise ValueError(
                    f"More than {max_corrupt} images cannot be decoded: {', '.join(skipped)} "
                    f"({error}). Repair or remove them, or raise max_corrupt"
                ) from error
        else:
            kept.append(name)
            labels.append(label)
    if not images:
        raise ValueError(
            f"{source}: none of its {len(skipped)} images can be decoded ({'; '.join(reasons)})"
        )
    known = None if None in labels else np.array(labels, np.int64)
    return np.stack(images), tuple(kept), known, tuple(skipped), tuple(reasons)


def _find(folder):
    """(sorted image paths, class folder of each or None for a flat folder, other files)."""
    flat, paths, names, others = [], [], [], []
    for entry in sorted(e for e in os.listdir(folder) if not e.startswith(".")):
        path = os.path.join(folder, entry)
        if os.path.isfile(path):
            (flat if is_image_file(path) else others).append(path)
            continue
        files = sorted(
            os.path.join(root, file)
            for root, _, files in os.walk(path)
            for file in files
            if not file.startswith(".")
        )
        inside = [file for file in files if is_image_file(file)]
        if inside:
            others += [file for file in files if not is_image_file(file)]
        paths += inside
        names += [entry] * len(inside)
    if flat and paths:
        raise ValueError(
            f"{folder} has both images ({os.path.basename(flat[0])}) and folders of images "
            f"({names[0]}): give a folder of images, or one with one folder per class and no other "
            "images"
        )
    if not flat and not paths:
        raise ValueError(
            f"{folder} has no images: it needs image files, one folder per class with image files, "
            "or TFRecord shards (train-00000-of-00008, ...)"
        )
    if paths and set(names) <= _SPLITS:
        raise ValueError(
            f"{folder} has the folders {', '.join(sorted(set(names)))}, which are splits, not "
            f"classes: give one of them, e.g. {os.path.join(folder, names[0])}"
        )
    return (flat, None, others) if flat else (paths, names, others)


def _require_npz(path):
    if not path.endswith(".npz") or not os.path.isfile(path):
        raise ValueError(
            f"images {path!r} is neither a folder nor an .npz file; give a folder of images, a "
            "folder with one folder per class, a folder of TFRecord shards (or "
            "FOLDER/validation), tfds:NAME, or an .npz with `images` (and `labels`)"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file (truncated, or of another format)")


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if "images" not in arrays:
        raise ValueError(
            f"{path} has the arrays {', '.join(arrays) or '(none)'}; it needs `images`, and "
            "optionally `labels`"
        )
    return arrays["images"], arrays.get("labels")


def _from_arrays(name, images, labels, prepare, limit, any_labels):
    images = np.asarray(images)
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
    chosen = _spread(len(images), limit)
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
