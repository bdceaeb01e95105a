"""``effnet predict``: classifies images, with the preprocessing that the weights require."""

import argparse
import os
import pathlib

import numpy as np

from keras_effnet.image_preprocessing import Preprocessing, load_image, preprocess, preprocessing
from keras_effnet.label_file import read_labels
from keras_effnet.labels import decode_predictions
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import VARIANTS


def add_arguments(parser):
    parser.add_argument("images", nargs="+", help="image files")
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
        help="for a name: a row of `effnet weights`, or a file (default: auto, the best published)",
    )
    parser.add_argument(
        "--labels",
        help="a file with one class name on each line (default: labels.txt beside a .keras file; "
        "ImageNet's names for 1,000 classes)",
    )
    parser.add_argument(
        "--ignore-exif",
        action="store_true",
        help="leave photos as they are stored, whatever their EXIF rotation",
    )


def run(options):
    # before the slow part
    images = [load_image(path, ignore_exif=options.ignore_exif) for path in options.images]
    model, names = open_model(options.model, options.weights, options.labels)
    prepared_as = preprocessing_of(model)
    print(f"{model.name}: {prepared_as}")
    batch = np.stack([preprocess(image, prepared_as) for image in images])
    scores = np.asarray(model.predict(batch, verbose=0), "float32")
    if scores.ndim != 2:
        raise ValueError(
            f"{options.model} is not a classifier: its output has shape {scores.shape}"
        )
    if scores.min() < 0 or scores.max() > 1:  # logits
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    for path, best in zip(options.images, decode_predictions(scores, options.top, names)):
        print(path)
        for index, name, score in best:
            print(f"  {score:7.2%}  {name}" + ("" if name == str(index) else f"  ({index})"))


def open_model(model, weights=None, labels=None):
    """(keras.Model, class names or None) of a .keras file or a variant's name.

    Raises ``ValueError`` for another `model`, and for `weights` in addition to a file.
    """
    names = None
    if labels is None and os.path.isfile(model):
        beside = pathlib.Path(model).with_name("labels.txt")
        labels = beside if beside.is_file() else None
    if labels is not None:
        names = read_labels(labels)
    if model in VARIANTS:
        from keras_effnet.constructors import create_model

        return create_model(model, weights=weights or "auto"), names
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
        return keras.saving.load_model(model, compile=False), names
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{model} cannot be read as a .keras file: {error}") from error


def preprocessing_of(model) -> Preprocessing:
    """The model's :class:`Preprocessing`; without one, stretched to its input size."""
    try:
        return preprocessing(model)
    except ValueError:
        sides = set(model.input_shape[1:3])
        if len(sides) != 1 or None in sides:
            raise
        return Preprocessing(sides.pop(), None, "bilinear")


def _count(text):
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is too small: give at least 1")
    return count
