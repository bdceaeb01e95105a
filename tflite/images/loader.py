"""Images for calibration and verification: from a folder, shards, TensorFlow Datasets, an .npz file
or an array, as the model takes them: uint8 RGB, prepared as the model says, or else stretched.

The stretch is ``tf.image.resize``'s and ``cv2.resize``'s with INTER_LINEAR, at the pixels' centres,
to within one grey level. MediaPipe's ImageClassifier stretches too (no crop, no antialias) but at
the pixels' corners, as measured since; ``tflite/images/mediapipe.py`` has it exactly. So in an app built
on MediaPipe an image reaches the model moved by half of a new pixel against the one here, and a
crop or an antialias that the model's preparation has is lost. Float and converted file get the same
pixels here, so what they are compared on holds; top-1 is that of this preparation. For MediaPipe's
own, prepare images with ``mediapipe.stretch`` and give them as an array.

EXIF rotation is ignored, as in training. No TensorFlow.
"""

import io
import os
import zipfile
import zlib
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.image_preprocessing import preprocess, resize
from keras_effnet.suggestions import unknown_name
from tflite.images.tfrecord import open_records

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")  # as in training
_SPLITS = {"train", "training", "validation", "val", "test"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as the model takes them, and what is known about them."""

    images: np.ndarray  # uint8 (n, height, width, 3)
    labels: "np.ndarray | None"  # int64 (n,), in [0, classes)
    class_names: "tuple[str, ...] | None"  # of class folders, labels.txt, a TensorFlow Dataset
    skipped: "tuple[str, ...]"  # files, or records of files, that could not be decoded
    source: str  # for reports: "photos/ (512 of 2,000 images, 10 classes)"
    files: "tuple[str, ...]" = ()  # relative to the folder, in the images' order; for records
    # "train-00000-of-00008 record 17"


def load_images(
    source, image_size, *, preprocessing=None, class_names=None, limit=None, max_corrupt=10
):
    """An :class:`ImageSet` of uint8 images (n, height, width, 3), always in the same order.

    Args:
        source: a folder of images, or of one folder a class (sorted names are the classes); a
            folder of TFRecord shards (``train-00000-of-00008``, as ``effnet-train prepare`` writes
            them), whose ``train`` set, else the only one, is taken, or FOLDER/validation for
            another; ``tfds:NAME`` or ``tfds:NAME/SPLIT`` (default: train) of TensorFlow Datasets;
            an .npz file with ``images`` and, if known, ``labels``; an array (n, height, width, 1 or
            3) with values in [0, 255]; or a pair (images, labels).
        image_size: (height, width) of the model.
        preprocessing: a ``keras_effnet.Preprocessing``, how the model's images are cropped and
            resized; None stretches them.
        class_names: the model's classes in order; class folders are looked up among them, and so
            are shards' ``labels.txt`` and a TensorFlow Dataset's names, unless they are other
            names for as many classes: those are taken in their own order.
        limit: at most so many images, spread evenly over the whole (all classes of a folder, all
            records of a set); others are not read.
        max_corrupt: so many images that cannot be decoded are skipped, and named; one more raises.

    Raises:
        ValueError: no images, values already scaled to [0, 1] or beyond [0, 255], another shape,
            labels that do not fit, shards that are missing, truncated or have other keys, too many
            corrupt images.
    """
    height, width = image_size[:2]

    def prepare(image):
        return _prepared(image, height, width, preprocessing)

    if limit is not None and limit < 1:
        raise ValueError(f"a limit of {limit} images leaves none: give 1 or more, or None")
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        records = open_records(path)
        if records is not None:
            return _from_records(records, prepare, class_names, limit, max_corrupt)
        if os.path.isdir(path):
            return _from_folder(path, prepare, class_names, limit, max_corrupt)
        if not path.endswith(".npz") or not os.path.isfile(path):
            raise ValueError(
                f"images {path!r} is neither a folder nor an .npz file; give a folder of images, a "
                "folder with one folder a class, a folder of TFRecord shards (or FOLDER/validation "
                "of it), tfds:NAME, or an .npz with `images` (and `labels`)"
            )
        images, labels = _read_npz(path)
        name = path
    else:
        images, labels = source if isinstance(source, (tuple, list)) else (source, None)
        name = "array"
    return _from_arrays(name, images, labels, prepare, limit)


def _prepared(image, height, width, input_spec):
    """uint8 (height, width, 3), as the model's weights need it; stretched if they say nothing."""
    if input_spec is None or height != width:
        return resize(image, height, width)
    return preprocess(image, replace(input_spec, image_size=height))


def _spread(count, limit):
    """Indices of at most `limit` of `count` things, evenly apart."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.arange(limit) * count // limit


def _describe(name, used, total, classes=None):
    of = f"{used:,} of {total:,} images" if used < total else f"{used:,} images"
    return f"{name} ({of}{f', {classes} classes' if classes else ''})"


def _from_folder(folder, prepare, class_names, limit, max_corrupt):
    paths, names = _find(folder)
    labels = None
    if names is not None:
        classes = tuple(sorted(set(names))) if class_names is None else tuple(class_names)
        for name in names:
            if name not in classes:
                raise ValueError(f"{folder}: {unknown_name('class folder', name, classes)}")
        labels = np.array([classes.index(name) for name in names])
    chosen = _spread(len(paths), limit)
    files = ((paths[i], paths[i], None if labels is None else labels[i]) for i in chosen)
    images, kept, labels, skipped = _decode_all(folder, files, prepare, max_corrupt)
    return ImageSet(
        images,
        labels,
        None if names is None else tuple(sorted(set(names))),
        skipped,
        _describe(folder, len(images), len(paths), names and len(set(names))),
        tuple(os.path.relpath(path, folder) for path in kept),
    )


def _from_records(records, prepare, class_names, limit, max_corrupt):
    def encoded(i):
        image, label = records.read(i)
        return records.where(i), io.BytesIO(image), label

    chosen = _spread(len(records), limit)
    images, kept, labels, skipped = _decode_all(
        records.name, map(encoded, chosen), prepare, max_corrupt
    )
    names = records.class_names
    source = _describe(records.name, len(images), len(records), names and len(names))
    if labels is None:
        source += ", several labels an image: not used"
    elif names is not None and labels.max() >= len(names):
        names = None
    elif names is not None and class_names is not None:
        labels = _looked_up(names, tuple(class_names), records.name)[labels]
    return ImageSet(images, labels, names, skipped, source, kept)


def _looked_up(names, class_names, source):
    """For each of a set's classes its number among the model's."""
    own = range(len(names))
    found = [class_names.index(name) if name in class_names else None for name in names]
    found = [i if class_names[i : i + 1] == (names[i],) else found[i] for i in own]  # for doubles
    if None not in found:
        return np.array(found)
    strange = names[found.index(None)]
    moved = [names[i] for i in own if found[i] not in (None, i)]
    if moved or len(names) != len(class_names):
        raise ValueError(
            f"{source}: {unknown_name('class', strange, class_names)}"
            + (f" ({moved[0]!r} is among them, under another number)" if moved else "")
        )
    return np.array(own)  # other names for the same classes: n01440764 for tench


def _decode_all(source, files, prepare, max_corrupt):
    """Of (name, path or file, label) each: images, names, labels (None where one has none), and the
    names of those that were skipped.
    """
    images, kept, labels, skipped = [], [], [], []
    for name, file, label in files:
        try:
            images.append(prepare(_decode(file)))
        except _CORRUPT as error:
            skipped.append(name)
            if len(skipped) > max_corrupt:
                raise ValueError(
                    f"More than {max_corrupt} images cannot be decoded, so something is wrong with "
                    f"the data: {', '.join(skipped)} ({error}). Repair or remove them, or raise "
                    "max_corrupt"
                ) from error
        else:
            kept.append(name)
            labels.append(label)
    if not images:
        raise ValueError(f"{source}: none of its {len(skipped)} images can be decoded")
    known = None if None in labels else np.array(labels, np.int64)
    return np.stack(images), tuple(kept), known, tuple(skipped)


def _find(folder):
    """Sorted image paths, and the class folder of each or None for a flat folder."""
    entries = sorted(e for e in os.listdir(folder) if not e.startswith("."))
    flat = [os.path.join(folder, e) for e in entries if e.lower().endswith(IMAGE_ENDINGS)]
    paths, names = [], []
    for entry in entries:
        found = sorted(
            os.path.join(root, file)
            for root, _, files in os.walk(os.path.join(folder, entry))
            for file in files
            if file.lower().endswith(IMAGE_ENDINGS) and not file.startswith(".")
        )
        paths += found
        names += [entry] * len(found)
    if flat and paths:
        raise ValueError(
            f"{folder} has images of its own ({os.path.basename(flat[0])}) and folders of images "
            f"({names[0]}): give a flat folder, or one folder a class and nothing beside"
        )
    if not flat and not paths:
        raise ValueError(
            f"{folder} has no images: it needs {'/'.join(IMAGE_ENDINGS)} files, one folder a "
            "class with such files, or TFRecord shards (train-00000-of-00008, ...)"
        )
    if paths and set(names) <= _SPLITS:
        raise ValueError(
            f"{folder} has the folders {', '.join(sorted(set(names)))}, which are splits and not "
            f"classes: give one of them, e.g. {os.path.join(folder, names[0])}"
        )
    return (flat, None) if flat else (paths, names)


# Pillow raises these for files that are truncated, of another format, or absurdly large.
_CORRUPT = (OSError, SyntaxError, ValueError)


def _decode(file):
    """uint8 (height, width, 3) of a path or an open file."""
    from PIL import Image  # here: reading arrays takes no Pillow

    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"{image.mode} pixels, more than 8 bits")
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _read_npz(path):
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file (truncated, or of another format)")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if "images" not in arrays:
        raise ValueError(
            f"{path} has the arrays {', '.join(arrays) or '(none)'}; it needs `images`, and "
            "`labels` where they are known"
        )
    return arrays["images"], arrays.get("labels")


def _from_arrays(name, images, labels, prepare, limit):
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.shape[0]:
        raise ValueError(
            f"{name}: images have shape {images.shape}; give (n, height, width, 3), n at least 1"
        )
    if images.dtype.kind not in "uif":
        raise ValueError(f"{name}: images are {images.dtype}; give numbers in [0, 255]")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
            raise ValueError(
                f"{name}: labels are {labels.dtype} {labels.shape} for {len(images)} images; give "
                "one whole number an image"
            )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # also where one is nan
        raise ValueError(f"{name}: values run from {low:g} to {high:g}; give pixels in [0, 255]")
    if high <= 1:
        raise ValueError(
            f"{name}: values run from {low:g} to {high:g}, so they seem scaled to [0, 1]; give "
            "pixels in [0, 255], the model scales them itself"
        )
    chosen = _spread(len(images), limit)
    pixels = np.rint(images[chosen]).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return ImageSet(
        np.stack([prepare(image) for image in pixels]),
        None if labels is None else labels[chosen].astype(np.int64),
        None,
        (),
        _describe(name, len(chosen), len(images)),
    )
