"""Reads the JSON of an evaluation (``effnet evaluate``, or the end of a training) for a card."""

from __future__ import annotations

import os

from keras_effnet.evaluation.page import GENERATOR
from keras_effnet.model_card.file_text import without_folders
from keras_effnet.model_card.json_fields import (
    DAMAGED,
    count,
    interval,
    measured,
    number,
    numbers,
    optional,
    read_object,
    string,
)

_MACRO = ("precision", "recall", "f1")


def read_evaluation(path: str, model: dict) -> dict:
    """{"file", "data", "date", "unreadable_images", "metrics", "classes"} of an evaluation.

    "metrics" and "classes" are as in the file, without what a card does not show, and with
    "several_labels": whether images may have more than one.

    Args:
        path: of the JSON file.
        model: facts of the model that must have been evaluated, with "file" and "sha256".

    Raises:
        ValueError: not such a file, or the evaluation of another model.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"evaluation {path!r} does not exist: give the .json file that effnet evaluate --out "
            "wrote"
        )
    try:
        record = read_object(path)
        if record["generator"] != GENERATOR:
            raise ValueError(f"its generator is {record['generator']!r}")
        evaluation = {
            "file": os.path.basename(path),
            "data": without_folders(string(record["data"])),
            "date": optional(string, record["facts"].get("Date")),
            "unreadable_images": len(list(record["unreadable"])),
            "metrics": _metrics(record["metrics"]),
            "classes": [_class(row) for row in record["classes"]],
        }
        evaluated = optional(string, record.get("model_sha256"))
        other = without_folders(string(record["facts"].get("Model") or record["model"]))
    except DAMAGED as error:
        raise ValueError(
            f"{path} is not an evaluation ({error}): give the .json file that effnet evaluate "
            "--out wrote"
        ) from error
    if evaluated != model["sha256"]:
        why = f"has SHA-256 {evaluated}" if evaluated else "states no SHA-256 of it"
        raise ValueError(
            f"{path} is the evaluation of another model ({other}): it {why}, {model['file']} has "
            f"{model['sha256']}. Evaluate this file: effnet evaluate --model=... --out=FOLDER, and "
            "give --evaluation=FOLDER/evaluation.json"
        )
    return evaluation


def _metrics(record):
    return {
        "images": count(record["images"]),
        "several_labels": "micro" in record,
        "top1": _share(record["top1"]),
        "top5": optional(_share, record["top5"]),
        "macro": {name: number(record["macro"][name]) for name in _MACRO},
        "mean_average_precision": measured(record.get("mean_average_precision")),
        "expected_calibration_error": measured(record["expected_calibration_error"]),
        "overconfidence": measured(record["overconfidence"]),
        "loss": measured(record["loss"]),
        "loss_interval": interval(record["loss_interval"]),
        "loss_definition": string(record["loss_definition"]),
    }


def _share(record):
    return {name: number(record[name]) for name in ("value", "low", "high")}


def _class(row):
    counts = {name: count(row[name]) for name in ("output", "images", "predicted", "correct")}
    if counts["correct"] > counts["images"]:
        raise ValueError(f"{counts['correct']} of {counts['images']} images are correct")
    return {"class": string(row["class"]), **counts, **numbers(row, _MACRO)}
