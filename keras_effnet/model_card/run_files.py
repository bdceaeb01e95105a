"""What training recorded in a work directory: data, recipe and phases."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keras_effnet.label_file import format_labels, parse_labels
from keras_effnet.model_card.file_text import without_folders
from keras_effnet.model_card.json_fields import DAMAGED, count, optional, read_object, string

RECIPE, LABELS = "recipe.json", "labels.txt"


def has_run(folder: str) -> bool:
    """Whether a folder is the work directory of a training."""
    return os.path.isfile(os.path.join(folder, RECIPE))


def read_run(folder: str) -> dict:
    """{"network", "data", "recipe", "phases", "versions"} of a work directory.

    "data" has "training", "evaluation" (names of the images, without local folders),
    "training_images", "images_per_class" and "skipped_files" (their number); None for what a run
    of an earlier version did not record.

    Raises ``ValueError`` for a folder without a run, or with a damaged record of it.
    """
    path = os.path.join(folder, RECIPE)
    if not os.path.isfile(path):
        raise ValueError(
            f"{folder or '.'} has no {RECIPE}, so it is not the work directory of a training: give "
            "a model in the folder that effnet-train wrote (--workdir)"
        )
    try:
        record = read_object(path)
        recipe, run = record["recipe"], record["run"]
        recipe = {k: without_folders(v) if isinstance(v, str) else v for k, v in recipe.items()}
        started_from = string(recipe["model"])
        scaled = [f"{k} {recipe[k]:g}" for k in ("width", "depth") if recipe.get(k, 1) != 1]
        names = [
            optional(string, record.get(f"{split}_data")) for split in ("training", "evaluation")
        ]
        phases = [dict(phase) for phase in record["phases"]]
        if any(phase.keys() != phases[0].keys() for phase in phases):
            raise ValueError("its phases have different fields")
        return {
            # A file's name says nothing of its network.
            "network": None
            if started_from.endswith(".keras")
            else ", ".join([started_from, *scaled]),
            "data": {
                "training": names[0] and without_folders(names[0]),
                "evaluation": names[1] and without_folders(names[1]),
                "training_images": count(record["training_images"]),
                "class_names": [string(name) for name in run["classes"]],
                "images_per_class": optional(_counts, record.get("images_per_class")),
                "skipped_files": len(list(record.get("skipped_files", ()))),
            },
            "recipe": recipe,
            "phases": phases,
            "versions": {name: record[name] for name in ("tensorflow", "keras") if name in record},
        }
    except DAMAGED as error:
        raise ValueError(
            f"{path} is not the record of a training, which effnet-train writes ({error})"
        ) from error


def _counts(values):
    return [count(value) for value in values]


def check_labels(folder: str, class_names: Sequence[str]) -> None:
    """Raises ``ValueError`` if a work directory's label file is not that of its training."""
    path = os.path.join(folder, LABELS)
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        content = file.read()
    expected = format_labels(class_names)
    if content != expected and parse_labels(content, path) != parse_labels(expected, path):
        raise ValueError(
            f"{path} has other class names than {os.path.join(folder, RECIPE)}: the folder has "
            "files of two trainings, and a card cannot describe both"
        )
