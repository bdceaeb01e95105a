"""What makes two trainings the same run: recipe, data and software versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping

from keras_effnet.provenance import file_sha256
from tpu_train.recorded_settings import differences


def identify_run(recipe, training, evaluation) -> dict:
    """What must be equal for a run to resume: all recipe fields, the classes and the labels.

    With pseudo-labeled images all their scores, too, and with a teacher its weights.
    """
    labels = hashlib.sha256(training.labels.tobytes() + evaluation.labels.tobytes()).hexdigest()
    identity = {
        **dataclasses.asdict(recipe),
        "classes": list(training.classes),
        "training_images": training.examples,
        "labels_sha256": labels,
    }
    if training.unlabeled is not None:
        identity["unlabeled_images"] = training.unlabeled.examples
        identity["pseudo_labels_sha256"] = training.unlabeled.fingerprint
    if recipe.teacher:
        identity["teacher_sha256"] = file_sha256(recipe.teacher)
    return identity


def check_recipe(recipe, workdir: str) -> None:
    """Raises ``ValueError`` if a local `workdir` has checkpoints of another recipe.

    Reads ``recipe.json`` only, so that the data need not be opened, nor TensorFlow imported.
    """
    path, folder = os.path.join(workdir, "recipe.json"), os.path.join(workdir, "checkpoints")
    if not os.path.isdir(folder) or not os.listdir(folder):
        return
    try:
        with open(path) as file:
            record = json.load(file)
        saved = record["run"]
        planned = record.get("planned_epochs", [saved["epochs"]])
        if recipe.epochs >= planned[-1]:  # the run, or an extension of it
            recipe = dataclasses.replace(recipe, epochs=planned[0])
    except (OSError, ValueError, LookupError, TypeError):
        return  # the checkpoints record the same
    check_same_run(saved, dataclasses.asdict(recipe), folder)


def check_same_run(saved: Mapping, current: Mapping, folder: str) -> None:
    """Raises ``ValueError`` with every value in which a checkpoint's run differs."""
    differing = differences(saved, current)
    if differing:
        raise ValueError(
            f"{folder} belongs to a different run ({differing}): resume with the same flags and "
            "data, choose another workdir, or give --overwrite to start from scratch"
        )


def software_versions() -> dict[str, str]:
    """The versions and settings on which the bits of a training depend."""
    import keras  # here, as check_recipe must not wait for TensorFlow
    import numpy as np
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "oneDNN": "on" if onednn_enabled() else "off",
    }


def log_version_changes(saved: Mapping[str, str], log: Callable[[str], object]) -> None:
    """Logs one line for every version that differs from the checkpoint's."""
    for name, version in software_versions().items():
        if saved.get(name) != version:
            log(
                f"the checkpoint was written with {name} {saved.get(name)}, this process has "
                f"{version}: the results will not be bit-identical"
            )


def onednn_enabled() -> bool:
    """Whether this process's TensorFlow computes with oneDNN, as decided when it was imported.

    Without ``TF_ENABLE_ONEDNN_OPTS``, that depends on the processor. The results of both differ in
    the last bits.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port  # no public function tells

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1"
