"""``effnet predict``: classifies images, with the preprocessing that the weights require."""

import argparse
import functools
import os
import sys

import numpy as np

from keras_effnet.datasets.folders import open_images
from keras_effnet.evaluation.outcomes import class_probabilities
from keras_effnet.image_classifier import of_keras_model, open_model
from keras_effnet.image_decoding import load_image
from keras_effnet.labels import LABEL_FORMATS, class_names_for, decode_predictions

_BATCH = 32


def add_arguments(parser):
    group = parser.add_group(
        "images", f"{parser.prog} cat.jpg photos/ --model=efficientnetv2-s --top=3"
    )
    group.add_argument("images", nargs="+", help="image files, or folders of them")
    group.add_argument("--top", type=_count, default=5, help="number of classes to print")
    add_ignore_exif(group)
    add_model(parser, f"{parser.prog} cat.jpg --model=run1/model.keras")


def add_ignore_exif(group):
    """Adds the flag for photos that are not to be turned upright."""
    group.add_argument(
        "--ignore_exif",
        action="store_true",
        help="leave photos as they are stored, whatever their EXIF rotation",
    )


def add_model(parser, example):
    """Adds the flags that select a network."""
    group = parser.add_group("network", example)
    group.add_argument("--model", required=True, help="a .keras file, or a name of `effnet models`")
    group.add_argument(
        "--weights",
        help="for a name: a row of `effnet weights`, a file, or hf://OWNER/NAME of the Hugging "
        "Face hub (default: auto, the best published)",
    )
    group.add_argument(
        "--labels",
        help="a file with one class name on each line (default: labels.txt beside a .keras file; "
        "ImageNet's names for 1,000 classes)",
    )
    group.add_argument(
        "--label_format",
        choices=LABEL_FORMATS,
        help="ImageNet's classes by all their names, the first one, or the WordNet id (default: "
        "names)",
    )


def run(options):
    paths = image_files(options.images)
    load = functools.partial(load_image, ignore_exif=options.ignore_exif)
    first = [load(path) for path in paths[:_BATCH]]  # before the slow part
    model, names = open_options_model(options)
    classifier = of_keras_model(model, names)
    prepared_as = classifier.image_input
    print(f"{model.name}: {prepared_as}")
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        images = [load(path) for path in batch] if start else first
        pixels = np.stack([prepared_as.for_model(prepared_as.prepare(image)) for image in images])
        scores = probabilities_of(options.model, model, classifier, pixels)
        names = names or class_names_for(scores.shape[1], options.label_format or "names")
        for path, best in zip(batch, decode_predictions(scores, options.top, names)):
            print(path)
            for index, name, score in best:
                print(f"  {score:7.2%}  {name}" + ("" if name == str(index) else f"  ({index})"))


def probabilities_of(path, model, classifier, pixels) -> np.ndarray:
    """The probabilities (images, 2 or more classes) that a Keras classifier predicts.

    `path` is that of the model, for messages. Raises ``ValueError`` for scores that are not finite.
    """
    scores = np.asarray(model.predict(pixels, verbose=0), "float32")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{path} gives scores that are not finite: its weights are damaged, or its training "
            "diverged. Give the file of another run or checkpoint"
        )
    return class_probabilities(classifier.kind_of(scores), scores)


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


def open_options_model(options):
    """(keras.Model, class names or None) of the flags of :func:`add_model`."""
    if options.labels is not None and options.label_format:
        raise ValueError("--label_format is for ImageNet's names: drop it, or --labels")
    return open_model(options.model, options.weights, options.labels)


def _count(text):
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is too small: give at least 1")
    return count
