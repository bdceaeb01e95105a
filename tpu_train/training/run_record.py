"""recipe.json in a work directory: what a run records, whether it is complete, its extensions.

A finished run can be extended: the same command with more ``--epochs`` continues from the last
checkpoint with one more phase, which has the last phase's settings. Its learning rate is that of a
schedule over all epochs, so a cosine starts again from a higher rate than it ended with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_effnet.atomic_write import write_files
from tpu_train.checkpointing import workdir as workdirs
from tpu_train.checkpointing.preemption import CompleteError
from tpu_train.checkpointing.run_identity import identify_run
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.evaluation_settings import setting_by_evaluations
from tpu_train.recipes.phases import Phase, extend_phases, make_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.remote_files import read_file
from tpu_train.training.run_context import TrainingHistory


def read_record(workdir: str) -> dict | None:
    """The content of recipe.json in a work directory; None if there is none."""
    path = os.path.join(workdir, "recipe.json")
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(read_file(path)) if tf.io.gfile.exists(path) else None


def write_record(
    path: str,
    recipe: Recipe,
    phases: Sequence[Phase],
    training: ImageSource,
    evaluation: ImageSource,
    planned: Sequence[float],
    identity: Mapping,
) -> None:
    """Writes the record of a run that begins, resumes or is extended.

    `training` has every image once, without the repeats of oversampling; `identity` is that of
    :func:`identify`.
    """
    record = {
        "recipe": dataclasses.asdict(recipe),
        "phases": [dataclasses.asdict(p) for p in phases],
        "training_data": training.name,
        "evaluation_data": evaluation.name if evaluation.examples else None,
        "training_images": training.examples,
        **_unlabeled_entries(training.unlabeled),
        "images_per_class": _images_per_class(training),
        "skipped_files": list(training.skipped),
        "planned_epochs": planned,  # of the run and of its extensions
        "run": identity,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    write_files({path: json.dumps(record, indent=1).encode()})


def _unlabeled_entries(unlabeled):
    if unlabeled is None:
        return {}
    return {"unlabeled_data": unlabeled.name, "unlabeled_images": unlabeled.examples}


def _images_per_class(source):
    labels = source.labels[source.labels >= 0]
    return np.bincount(labels, minlength=len(source.classes)).tolist()


def plan_epochs(record: Mapping | None, epochs: float) -> list[float]:
    """The epochs of a run, and of each of its extensions: those of `record`, then larger `epochs`.

    `record` is the recipe.json of the run that a work directory has, or None. The first number
    belongs to the identity of the run. Raises ``ValueError`` for fewer epochs than an extension's.

    >>> plan_epochs(None, 30), plan_epochs({"planned_epochs": [30]}, 50)
    ([30], [30, 50])
    """
    planned = (record or {}).get("planned_epochs", [epochs])
    if epochs > planned[-1]:
        return [*planned, epochs]
    if len(planned) > 1 and epochs < planned[-1]:
        raise ValueError(
            f"the run was extended to {planned[-1]} epochs, now {epochs}: give "
            f"--epochs={planned[-1]} or more, or choose another workdir"
        )
    return planned if epochs == planned[-1] else [epochs]


def plan_phases(recipe: Recipe, examples: int, planned: Sequence[float]) -> tuple[Phase, ...]:
    """The phases of a run, and one for each of its extensions."""
    phases = make_phases(dataclasses.replace(recipe, epochs=planned[0]), examples)
    for epochs in planned[1:]:
        phases = extend_phases(phases, recipe, examples, epochs)
    return phases


def identify(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    planned: Sequence[float],
    eval_epochs: float | None = None,
) -> dict:
    """The identity of a run: an extension does not change it.

    With `eval_epochs`, the epochs between evaluations, if the recipe decides by evaluations.
    """
    first = dataclasses.replace(recipe, epochs=planned[0])
    identity = identify_run(first, training, evaluation)
    if eval_epochs is not None and setting_by_evaluations(recipe):
        identity["eval_epochs"] = eval_epochs
    return identity


def check_extension(
    planned: Sequence[float], phases: Sequence[Phase], history: TrainingHistory | None
) -> None:
    """Raises ``ValueError`` for an extension of a run that has not finished."""
    if len(planned) > 1 and (history is None or len(history.phases) < len(phases) - 1):
        raise ValueError(
            f"the run has not finished its {planned[-2]} epochs: resume it with "
            f"--epochs={planned[-2]} before it is extended to {planned[-1]}"
        )


def check_not_complete(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    workdir: str,
    eval_epochs: float,
) -> None:
    """Raises :class:`CompleteError` if `workdir` has the finished run of this recipe and data."""
    model, record = os.path.join(workdir, "model.keras"), read_record(workdir)
    if record is None or not tf.io.gfile.exists(model):
        return
    if tf.io.gfile.isdir(os.path.join(workdir, workdirs.CHECKPOINTS)):
        return  # the run finishes from its last checkpoint
    planned = plan_epochs(record, recipe.epochs)
    identity = identify(recipe, training, evaluation, planned, eval_epochs)
    if record.get("run") != json.loads(json.dumps(identity)):
        return
    if planned != record.get("planned_epochs"):
        raise ValueError(
            f"the run in {workdir} is complete, and its checkpoints were removed: only a run with "
            f"--keep_checkpoints can be extended. To train its model further, give "
            f"--weights={model} and another workdir"
        )
    raise CompleteError(
        f"the run in {workdir} is complete: {model}. Give --overwrite to train it again, or more "
        "--epochs if it has kept its checkpoints"
    )
