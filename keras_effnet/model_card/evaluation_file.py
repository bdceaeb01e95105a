"""Reads the JSON of an evaluation (``effnet evaluate``, or the end of a training) for a card."""

from __future__ import annotations

import json
import os

from keras_effnet.evaluation.page import GENERATOR
from keras_effnet.model_card.file_text import without_folders

_CLASS_FIELDS = (
    *("class", "output", "images", "predicted", "correct"),
    *("precision", "recall", "f1", "average_precision"),
)


def read_evaluation(path: str, model: dict) -> dict:
    """{"file", "data", "date", "unreadable_images", "metrics", "classes"} of an evaluation.

    "metrics" and "classes" are as in the file, without the calibration bins.

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
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        if record["generator"] != GENERATOR:
            raise KeyError("generator")
        metrics = {k: v for k, v in record["metrics"].items() if k != "calibration_bins"}
        evaluation = {
            "file": os.path.basename(path),
            "data": without_folders(record["data"]),
            "date": record["facts"].get("Date"),
            "unreadable_images": len(record["unreadable"]),
            "metrics": metrics,
            "classes": [
                {k: row[k] for k in _CLASS_FIELDS if k in row} for row in record["classes"]
            ],
        }
        for name in ("images", "loss", "top1", "macro"):
            metrics[name]
        metrics["top1"]["low"] + metrics["top1"]["high"] + metrics["top1"]["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an evaluation: give the .json file that effnet evaluate --out wrote"
        ) from error
    evaluated = record.get("model_sha256")
    if evaluated != model["sha256"]:
        other = without_folders(record["facts"].get("Model") or record.get("model"))
        why = f"has SHA-256 {evaluated}" if evaluated else "states no SHA-256 of it"
        raise ValueError(
            f"{path} is the evaluation of another model ({other}): it {why}, {model['file']} has "
            f"{model['sha256']}. Evaluate this file: effnet evaluate --model=... --out=FOLDER, and "
            "give --evaluation=FOLDER/evaluation.json"
        )
    return evaluation
