"""CSV and JSON lists of image files with their labels."""

import collections
import concurrent.futures
import csv
import json
import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.image_source import of_files, pad_labels, without_corrupt

TRAINING = ("train", "training")
EVALUATION = ("validation", "val", "test", "evaluation")
_WANTED = "`image` (a path), `label` and, if it likes, `split`"


@dataclass(frozen=True)
class Row:
    """An image of a list: its path as it stands there, its class numbers, its half."""

    path: str
    labels: tuple[int, ...]
    is_evaluation: bool


def read_list(path):
    """(rows, classes, whether it has a split) of a list; a path stands in it once.

    CSV has the columns ``image``, ``label`` and, if it likes, ``split`` (train, validation);
    several labels of an image are separated by ``|``. JSON is a list of objects with these keys,
    and several labels are a list. Labels are names, or class numbers from 0. Raises ``ValueError``
    that says which row is wrong.
    """
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    found = _csv(path, text) if path.lower().endswith(".csv") else _json(path, text)
    if not found:
        raise ValueError(f"{path} has no rows: it needs {_WANTED}, a row an image")
    has_split = any(split is not None for _, _, split, _ in found)
    classes, number = _classes(path, found)
    rows = [
        Row(image, _numbers(labels, number), has_split and _is_evaluation(split, where))
        for image, labels, split, where in found
    ]
    _check_halves(path, rows, has_split)
    return rows, classes, has_split


def _csv(path, text):
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = table.fieldnames or []
    lacking = [c for c in ("image", "label") if c not in columns]
    if lacking:
        raise ValueError(
            f"{path} has the columns {', '.join(columns) or 'none'}, and lacks "
            f"{' and '.join(lacking)}: its first line must name {_WANTED}"
        )
    rows = []
    for row in table:
        where = f"{path} line {table.line_num}"
        labels = [label.strip() for label in (row["label"] or "").split("|")]
        rows.append(_row(where, row["image"], labels, row.get("split")))
    if all(label.isdecimal() for _, labels, _, _ in rows for label in labels):
        rows = [(image, [int(n) for n in labels], *rest) for image, labels, *rest in rows]
    return rows


def _json(path, text):
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(table, list):
        raise ValueError(f"{path} must be a JSON list of objects with {_WANTED}")
    rows = []
    for number, row in enumerate(table):
        where = f"{path} object {number}"
        lacking = [k for k in ("image", "label") if not isinstance(row, dict) or k not in row]
        if lacking:
            raise ValueError(f"{where} lacks {' and '.join(lacking)}: it needs {_WANTED}")
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        rows.append(_row(where, row["image"], labels, row.get("split")))
    return rows


def _row(where, image, labels, split):
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where} has no image")
    for label in labels or [""]:
        if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
            raise ValueError(f"{where} ({image}) has no label, or one that is no name or number")
    return image, labels, split, where


def _classes(path, rows):
    """(class names, {label: class number}); numbers stay what they are."""
    labels = {label for _, own, _, _ in rows for label in own}
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise ValueError(f"{path} has labels that are names and labels that are numbers: choose")
    if kinds == {int}:
        if min(labels) < 0:
            raise ValueError(f"{path} has the label {min(labels)}: class numbers begin at 0")
        classes = [str(n) for n in range(max(labels) + 1)]
        return classes, {n: n for n in labels}
    classes = sorted(labels)
    return classes, {name: n for n, name in enumerate(classes)}


def _numbers(labels, number):
    return tuple(sorted({number[label] for label in labels}))


def _is_evaluation(split, where):
    if split not in TRAINING + EVALUATION:
        raise ValueError(
            f"{where} has the split {split!r}; accepted: {', '.join(TRAINING + EVALUATION)}"
        )
    return split in EVALUATION


def _check_halves(path, rows, has_split):
    halves = collections.defaultdict(list)
    for row in rows:
        halves[os.path.normpath(row.path)].append(row.is_evaluation)
    leaks = [p for p, own in halves.items() if len(set(own)) > 1]
    twice = [p for p, own in halves.items() if len(own) > 1]
    for which, what in (
        (leaks, "for training and for evaluation, which would measure what was learnt by heart"),
        (twice, "more than once (several labels of an image go into one row)"),
    ):
        if which:
            more = f" and {len(which) - 3} others" if len(which) > 3 else ""
            raise ValueError(f"{path} has {', '.join(which[:3])}{more} {what}")
    if has_split and len({row.is_evaluation for row in rows}) < 2:
        half = "evaluation" if rows[0].is_evaluation else "training"
        raise ValueError(f"{path} has a split, but {half} rows only: leave it out, or fill both")


def from_list(path, max_corrupt):
    """(source, None), or (None, (training, evaluation)) of a list that says which is which.

    Every file is decoded once. Raises ``ValueError`` when nothing can be trained on there.
    """
    rows, classes, has_split = read_list(path)
    if len(classes) < 2:
        raise ValueError(f"{path} has one class only ({classes[0]}); it needs two at least")
    files = [os.path.join(os.path.dirname(path), row.path) for row in rows]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        there = list(pool.map(tf.io.gfile.exists, files))
    if not all(there):
        missing = [file for file, is_there in zip(files, there) if not is_there]
        raise ValueError(
            f"{path} names {len(missing)} files that are not there: {', '.join(missing[:3])}"
        )
    counts = np.array([len(row.labels) for row in rows])
    labels = pad_labels(
        np.array([label for row in rows for label in row.labels]), counts, counts.max()
    )
    source = of_files(path, classes, labels, files, [row.path for row in rows])
    if not has_split:
        return without_corrupt(source, max_corrupt), None
    evaluation = np.array([row.is_evaluation for row in rows])
    halves = (source.take(np.flatnonzero(half)) for half in (~evaluation, evaluation))
    return None, tuple(without_corrupt(half, max_corrupt) for half in halves)
