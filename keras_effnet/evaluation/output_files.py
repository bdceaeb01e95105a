"""The files of an evaluation: page, JSON, CSV tables, and the picture of the confusion matrix."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping

import numpy as np

from keras_effnet.atomic_write import write_files
from keras_effnet.evaluation import charts, page
from keras_effnet.evaluation.summary import Evaluation

ENDINGS = (
    *("_images.csv", "_classes.csv", "_confusions.csv", "_confusion_matrix.csv"),
    *("_confusion_matrix.svg", ".html", ".json"),
)
_KEY = "generator"


def write_evaluation(
    folder: str | os.PathLike[str],
    stem: str,
    evaluation: Evaluation,
    origin: Mapping,
    picture: Callable[[int], np.ndarray] | None = None,
) -> list[str]:
    """Writes the files of an evaluation, whose names begin with `stem`, and returns their paths.

    ``STEM.html``, ``STEM.json``, ``STEM_classes.csv``, ``STEM_images.csv``, and for images with one
    label each ``STEM_confusions.csv``, ``STEM_confusion_matrix.csv`` and
    ``STEM_confusion_matrix.svg`` (up to 1,000 classes). All are written, or none.

    Args:
        folder: is created.
        stem: begin of the names.
        evaluation: of a classifier.
        origin: as for :func:`keras_effnet.evaluation.page.render`.
        picture: likewise.
    """
    record = {_KEY: page.GENERATOR, **origin, **evaluation.as_dict()}
    files = {
        "_images.csv": _csv(evaluation.image_row(row) for row in range(evaluation.images)),
        "_classes.csv": _csv(evaluation.class_row(c) for c in evaluation.present),
    }
    if not evaluation.is_multi_label:
        files["_confusions.csv"] = _csv(_confusion_rows(evaluation))
        drawn = charts.confusion_matrix(
            evaluation.confusions, evaluation.present, evaluation.class_names
        )
        if drawn:
            files["_confusion_matrix.csv"] = _matrix(evaluation)
            files["_confusion_matrix.svg"] = drawn
    files[".html"] = page.render(evaluation, origin, picture)
    files[".json"] = json.dumps(record, indent=1) + "\n"
    os.makedirs(folder, exist_ok=True)
    paths = {os.path.join(folder, stem + ending): content for ending, content in files.items()}
    write_files(paths)
    return list(paths)


def check_folder(folder: str | os.PathLike[str], stem: str) -> None:
    """Raises ``ValueError`` for a path that is not a folder, or has files of another kind."""
    folder = os.fspath(folder)
    if not os.path.lexists(folder):
        parent = os.path.dirname(os.path.abspath(folder))
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
            raise ValueError(f"--out {folder!r} cannot be created: {parent!r} is not writable")
        return
    if not os.path.isdir(folder):
        raise ValueError(f"--out {folder!r} is a file: give a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {folder!r} is not writable: give another folder")
    ours = [
        stem + ending for ending in ENDINGS if os.path.lexists(os.path.join(folder, stem + ending))
    ]
    if ours and not _is_evaluation(os.path.join(folder, f"{stem}.json")):
        raise ValueError(
            f"--out {folder!r} has {', '.join(sorted(ours)[:3])}, not written by this command: "
            "they are not overwritten; give another folder"
        )


def _is_evaluation(path):
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get(_KEY) == page.GENERATOR


def _confusion_rows(evaluation):
    for label, prediction, count in evaluation.largest_confusions(len(evaluation.confusions)):
        yield {
            "label": evaluation.class_names[label],
            "prediction": evaluation.class_names[prediction],
            "images": int(count),
            "share_of_label": float(count / evaluation.classes.count[label]),
        }


def _matrix(evaluation):
    """The confusion matrix as CSV: labels in rows, predictions in columns."""
    present, names = evaluation.present, evaluation.class_names
    place = {int(c): i for i, c in enumerate(present)}
    matrix = np.zeros((len(present), len(present)), np.int64)
    for label, prediction, count in evaluation.confusions:
        matrix[place[int(label)], place[int(prediction)]] = count
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["label \\ prediction", *(names[c] for c in present)])
    for c, row in zip(present, matrix.tolist()):
        writer.writerow([names[c], *row])
    return file.getvalue()


def _csv(rows):
    """Rows of equal keys as CSV; lists are joined by semicolons. Empty without rows."""
    file, writer = io.StringIO(), None
    for row in rows:
        row = {k: ";".join(v) if isinstance(v, list) else v for k, v in row.items()}
        if writer is None:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return file.getvalue()
