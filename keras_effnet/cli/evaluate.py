"""``effnet evaluate``: how well a classifier does on labeled images, and where it fails."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import shlex
import sys

import numpy as np

from keras_effnet.cli.predict import add_ignore_exif, add_model
from keras_effnet.datasets.dataset import check_path, open_dataset
from keras_effnet.datasets.holdout import check_holdout, hold_out
from keras_effnet.datasets.splits import evaluation_split
from keras_effnet.datasets.undecodable import without_undecodable
from keras_effnet.evaluation.class_matching import match_classes, wordnet_ids_of
from keras_effnet.evaluation.output_files import check_folder, write_evaluation
from keras_effnet.evaluation.published import find_published
from keras_effnet.evaluation.scoring import progress_lines, score_images
from keras_effnet.evaluation.summary import evaluate_outcomes
from keras_effnet.evaluation.text_table import table_lines
from keras_effnet.image_classifier import InputFlags, open_classifier
from keras_effnet.provenance import file_sha256, package_versions
from keras_effnet.suggestions import unknown_name

_STEM = "evaluation"


def add_arguments(parser):
    example = f"{parser.prog} --model=run1/model.keras --data=my_photos"
    group = parser.add_group("data", f"{example} --split=test")
    group.add_argument(
        "--data",
        required=True,
        help="labeled images, as in training: folder of class folders or of TFRecord shards, a "
        ".csv, .json or .npz file, or tfds:NAME. Class folders may have WordNet ids as names",
    )
    group.add_argument(
        "--split", help="split of the data (default: validation, else test, else all images)"
    )
    group.add_argument(
        "--holdout",
        type=float,
        help="for data without splits: evaluate on the images that effnet-train held out with this "
        "value (its default is 0.2)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="the one that effnet-train had, for --holdout"
    )
    group.add_argument(
        "--max_corrupt",
        type=_count,
        default=10,
        help="images that cannot be read and are left out, at most",
    )
    add_model(parser, example)
    group = parser.add_group("result", f"{example} --out=evaluation")
    group.add_argument(
        "--out", help="folder for the page, JSON and CSV files (default: none are written)"
    )
    group.add_argument(
        "--check",
        action="store_true",
        help="compare top-1 with the published figure of the weights; status 1 if they differ",
    )
    group = parser.add_group("preprocessing", f"{example} --crop=1")
    group.add_argument("--image_size", type=_positive, help="pixels a side (default: the model's)")
    group.add_argument(
        "--crop",
        type=_crop,
        help="centered part of the shorter side, e.g. 0.875; 0: the whole image, stretched "
        "(default: the model's)",
    )
    group.add_argument(
        "--interpolation", help="bilinear or bicubic (default: the model's, else bilinear)"
    )
    add_ignore_exif(group)


def run(options):
    """Evaluates; returns the exit status."""
    check_path(options.data)
    if options.holdout is not None:
        check_holdout(options.holdout)
    if options.out is not None:
        check_folder(options.out, _STEM)
    published = find_published(options.model, options.weights) if options.check else None
    images = _open_images(options)
    flags = InputFlags(options.image_size, options.crop, options.interpolation)
    classifier = open_classifier(options.model, options.weights, options.labels, flags)
    match = match_classes(images.classes, classifier.classes, classifier.class_names)
    name = classifier.name + (f", {options.weights}" if options.weights else "")
    for line in (f"{name}: {classifier.image_input}", match.note, *images.notes):
        print(line, flush=True)
    scored = score_images(
        classifier,
        images,
        match.outputs,
        max_unreadable=options.max_corrupt,
        ignore_exif=options.ignore_exif,
        progress=progress_lines(),
    )
    identifiers = [_relative(images.where(int(i)), options.data) for i in scored.indices]
    evaluation = evaluate_outcomes(scored.outcomes, scored.kind, match.names, identifiers)
    rate = len(identifiers) / scored.seconds
    print(f"{images.name}: {len(identifiers):,} images, {rate:.1f} images/s\n")
    for line in table_lines(evaluation):
        print(line)
    unreadable = [f"{path} cannot be decoded" for path in images.skipped] + list(scored.unreadable)
    for message in unreadable:
        print(f"not evaluated: {message}")
    comparison = published.compare(evaluation.top1, evaluation.images) if published else None
    if comparison:
        print(f"\n{comparison['message']}")
    if options.out is not None:
        origin = {
            "model": name,
            "model_sha256": file_sha256(options.model),
            "data": images.name,
            "unreadable": unreadable,
            "check": comparison,
            "facts": _facts(options, classifier, match, rate),
        }

        def picture(row):
            index = int(scored.indices[row])
            return images.pixels(index, ignore_exif=options.ignore_exif)

        print()
        for path in write_evaluation(options.out, _STEM, evaluation, origin, picture):
            print(f"wrote {path}")
    return 0 if comparison is None or comparison["agrees"] else 1


def _open_images(options):
    """The images to evaluate on, with classes; ``ValueError`` for none or without labels."""
    dataset = open_dataset(options.data)
    split = options.split or evaluation_split(dataset.splits) or dataset.splits[0]
    if split not in dataset.splits:
        raise ValueError(unknown_name("split", split, dataset.splits))
    (images,) = dataset.open(split)
    images = _with_classes(images) if images.classes is None else images
    if options.holdout is not None:
        if len(dataset.splits) > 1:
            raise ValueError(
                f"--holdout={options.holdout}, but {options.data} has the splits "
                f"{', '.join(dataset.splits)}: drop it, or give --split"
            )
        images = without_undecodable(
            images, options.max_corrupt
        )  # before the split, as in training
        _, held_out = hold_out(
            images.name, images.labels, images.classes, options.holdout, options.seed
        )
        images = images.take(held_out)
    elif len(dataset.splits) == 1 and _has_run_record(options.model):
        note = (
            f"all images of {images.name}; of the data of the training, --holdout=0.2 evaluates "
            "on those that effnet-train held out"
        )
        images = dataclasses.replace(images, notes=(*images.notes, note))
    return images


def _has_run_record(model):
    """Whether a model lies in the work directory of its training."""
    return os.path.isfile(os.path.join(os.path.dirname(model), "recipe.json"))


def _with_classes(images):
    """Images without class names: numbers if they have labels, else the WordNet ids that their
    file names begin with, if all do.
    """
    if images.labels is not None:
        names = tuple(str(n) for n in range(int(images.labels.max()) + 1))
        return dataclasses.replace(images, classes=names)
    ids = wordnet_ids_of([images.where(i) for i in range(len(images))])
    if ids is None:
        raise ValueError(
            f"{images.name} has no labels: put the images of each class into a folder with its "
            "name, or list them in a CSV file"
        )
    classes = sorted(set(ids))
    labels = np.array([classes.index(name) for name in ids], np.int32)
    note = "the labels are the WordNet ids that the file names begin with"
    return dataclasses.replace(
        images, classes=tuple(classes), known_labels=labels, notes=(*images.notes, note)
    )


def _relative(identifier, data):
    """A path without the folder of the data."""
    folder = os.path.join(data, "")
    return identifier[len(folder) :] if identifier.startswith(folder) else identifier


def _facts(options, classifier, match, rate):
    """{name: text} of where the numbers come from."""
    now = datetime.datetime.now(datetime.timezone.utc)
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return {
        "Model": options.model,
        "Weights": options.weights,
        "Data": options.data,
        "Preprocessing": str(classifier.image_input),
        "Classes": match.note,
        "Speed": f"{rate:.1f} images/s on {os.cpu_count()} processors",
        "Date": now.isoformat(timespec="seconds"),
        "Command": command,
        "Versions": versions,
    }


def _positive(text):
    return _number(text, int, lambda n: n >= 1, "give at least 1")


def _count(text):
    return _number(text, int, lambda n: n >= 0, "give 0 or more")


def _crop(text):
    return _number(text, float, lambda n: 0 <= n <= 1, "give a fraction up to 1, or 0 for no crop")


def _number(text, kind, is_valid, advice):
    try:
        number = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: {advice}") from error
    if not is_valid(number):
        raise argparse.ArgumentTypeError(f"{text} is out of range: {advice}")
    return number
