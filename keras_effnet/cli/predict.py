"""``effnet predict``: classifies images, with the preprocessing that the weights require."""

import argparse
import functools
import os
import pathlib
import sys
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.datasets.folders import open_images
from keras_effnet.image_decoding import load_image
from keras_effnet.image_preprocessing import Preprocessing, preprocess, preprocessing, resize
from keras_effnet.label_file import read_labels
from keras_effnet.labels import LABEL_FORMATS, class_names_for, decode_predictions, label_map
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import VARIANTS

_BATCH = 32


def add_arguments(parser):
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    add_model(parser)
    parser.add_argument(
        "--top", type=_count, default=5, help="number of classes to print (default: 5)"
    )


def add_model(parser):
    """Adds the flags that select a network."""
    parser.add_argument(
        "--model", required=True, help="a .keras file, or a name of `effnet models`"
    )
    parser.add_argument(
        "--weights",
        help="for a name: a row of `effnet weights`, a file, or hf://OWNER/NAME of the Hugging "
        "Face hub (default: auto, the best published)",
    )
    parser.add_argument(
        "--labels",
        help="a file with one class name on each line (default: labels.txt beside a .keras file; "
        "ImageNet's names for 1,000 classes)",
    )
    parser.add_argument(
        "--label_format",
        choices=LABEL_FORMATS,
        help="ImageNet's classes by all their names (default), the first one, or the WordNet id",
    )
    parser.add_argument(
        "--ignore_exif",
        action="store_true",
        help="leave photos as they are stored, whatever their EXIF rotation",
    )


def run(options):
    paths = image_files(options.images)
    load = functools.partial(load_image, ignore_exif=options.ignore_exif)
    first = [load(path) for path in paths[:_BATCH]]  # before the slow part
    model, names = open_model(options)
    prepared_as = image_input(model)
    print(f"{model.name}: {prepared_as}")
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        images = [load(path) for path in batch] if start else first
        pixels = np.stack([prepared_as.for_model(prepared_as.prepare(image)) for image in images])
        scores = np.asarray(model.predict(pixels, verbose=0), "float32")
        if scores.ndim != 2:
            raise ValueError(
                f"{options.model} is not a classifier: its output has shape {scores.shape}"
            )
        if scores.min() < 0 or scores.max() > 1:  # logits
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        names = names or class_names_for(scores.shape[1], options.label_format or "names")
        for path, best in zip(batch, decode_predictions(scores, options.top, names)):
            print(path)
            for index, name, score in best:
                print(f"  {score:7.2%}  {name}" + ("" if name == str(index) else f"  ({index})"))


def image_files(paths) -> list[str]:
    """The files of a list of files and folders; of a folder the images in it, at any depth.

    Raises ``ValueError`` for a folder without images. Prints what of a folder is not read.
    """
    files = []
    for path in paths:
        if os.path.isdir(path):
            images = open_images(path)
            files += images.storage.paths
            for note in images.notes:
                print(note, file=sys.stderr)
        else:
            files.append(path)
    return files


def open_model(options):
    """(keras.Model, class names or None) of the flags of :func:`add_model`.

    Raises ``ValueError`` for flags that contradict each other, another model than a .keras file or
    a variant's name, and another number of names than of classes.
    """
    model, weights, labels = options.model, options.weights, options.labels
    if labels is not None and options.label_format:
        raise ValueError("--label_format is for ImageNet's names: drop it, or --labels")
    names = None
    if labels is None and os.path.isfile(model):
        beside = pathlib.Path(model).with_name("labels.txt")
        labels = beside if beside.is_file() else None
    if labels is not None:
        names = read_labels(labels)
    if model in VARIANTS:
        from keras_effnet.constructors import create_model

        stated = resolve_weights(model, weights or "auto").input_spec
        mapped = stated.classes is None or label_map(stated.classes) is not None
        if stated.source:
            print(f"weights of {stated.source}")
        classes = 1000 if mapped else stated.classes
        _check_names(labels, names, classes)
        return create_model(model, weights=weights or "auto", classes=classes), names
    if not os.path.isfile(model):
        raise ValueError(f"{unknown_name('model', model, VARIANTS)}; and no file has that name")
    if weights is not None:
        raise ValueError(
            f"--weights={weights} and --model={model}, a file that already has weights: drop one"
        )
    if not model.endswith(".keras"):
        raise ValueError(
            f"--model={model} is not a .keras file: give one, or --model=NAME --weights={model}"
        )
    import keras

    try:
        loaded = keras.saving.load_model(model, compile=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{model} cannot be read as a .keras file: {error}") from error
    shapes = [tuple(tensor.shape) for tensor in getattr(loaded, "outputs", None) or ()]
    if len(shapes) == 1 and len(shapes[0]) == 2:
        _check_names(labels, names, shapes[0][1])
    return loaded, names


def _check_names(labels, names, classes):
    if names is not None and classes is not None and len(names) != classes:
        raise ValueError(
            f"{labels} has {len(names)} class names, but the model has {classes} classes: give one "
            "name for each class, in the order of training"
        )


@dataclass(frozen=True)
class ImageInput:
    """The images that a model takes, and how photos become such images."""

    preprocessing: Preprocessing
    height: int
    width: int
    channels: int  # 1 or 3
    channels_first: bool

    def __str__(self):
        side = self.preprocessing.image_size
        text = str(self.preprocessing)
        if self.height != self.width:
            text = text.replace("center square of", "center region of the same shape,")
            text = text.replace(f"{side} x {side} pixels", f"{self.height} x {self.width} pixels")
        return text.replace("RGB", "grey") if self.channels == 1 else text

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, channels) of an RGB image."""
        if self.channels == 1:  # luma of ITU-R 601, as Pillow and TensorFlow
            image = np.rint(image @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        if self.height == self.width:
            return preprocess(image, self.preprocessing)
        crop = self.preprocessing.crop
        if crop is not None:
            factor = crop * min(image.shape[0] / self.height, image.shape[1] / self.width)
            sides = (max(1, int(factor * side)) for side in (self.height, self.width))
            (top, high), (left, wide) = (
                ((given - side + 1) // 2, side) for given, side in zip(image.shape, sides)
            )
            image = image[top : top + high, left : left + wide]
        return resize(image, self.height, self.width, self.preprocessing.interpolation)

    def for_model(self, image: np.ndarray) -> np.ndarray:
        """A prepared image in the model's data format."""
        return image.transpose(2, 0, 1) if self.channels_first else image


def image_input(model) -> ImageInput:
    """The :class:`ImageInput` of a model; stretched to its input size if it does not state more.

    Raises ``ValueError`` for a model that does not take one image of 1 or 3 channels.
    """
    inputs = getattr(model, "inputs", None) or ()
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"{model.name} has inputs of shapes {shapes}: this command takes models of one image "
            "(batch, height, width, channels)"
        )
    channels_first = shapes[0][1] in (1, 3) and shapes[0][3] not in (1, 3)
    shape = shapes[0][1:]
    height, width, channels = (*shape[1:], shape[0]) if channels_first else shape
    if channels not in (1, 3):
        raise ValueError(
            f"{model.name} takes images of {channels} channels, but image files have 1 or 3: call "
            "the model on your arrays in Python"
        )
    fixed = None not in (height, width)
    try:
        stated = preprocessing(model)
    except ValueError:
        if not fixed:
            raise
        stated = Preprocessing(height, None, "bilinear")
    if not fixed:
        height, width = height or stated.image_size, width or stated.image_size
    elif height == width:
        stated = replace(stated, image_size=height)
    return ImageInput(stated, height, width, channels, channels_first)


def _count(text):
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is too small: give at least 1")
    return count
