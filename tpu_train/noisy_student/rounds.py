"""Rounds of Noisy Student training: a teacher labels, a student learns, and is the next teacher.

A round is a folder with the pseudo-labels, the student's run and its evaluation. Each step of a
round is skipped if its result is there, so a call after an interruption resumes, and ends with the
same files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import tensorflow as tf

from keras_effnet.atomic_write import remove_leftovers
from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.evaluation.scoring import progress_lines
from keras_effnet.keras_file import load_keras_file
from tpu_train.checkpointing.preemption import CompleteError
from tpu_train.checkpointing.run_identity import identify_run
from tpu_train.folder_lock import locked
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.pseudo_labeled import open_pseudo_labels
from tpu_train.input_pipeline.targets import images_of_epoch
from tpu_train.noisy_student.pseudo_labels import (
    LabelingOptions,
    is_labeled,
    stoppable,
    write_pseudo_labels,
)
from tpu_train.noisy_student.round_evaluation import evaluate_model
from tpu_train.noisy_student.round_report import FILES, Round, describe, write_rounds
from tpu_train.recipes.evaluation_settings import check_phases_without_evaluations
from tpu_train.recipes.schema import Recipe
from tpu_train.recorded_settings import differences
from tpu_train.training.graph_memory import released_graphs
from tpu_train.training.run import train
from tpu_train.training.run_checks import check_settings
from tpu_train.training.run_record import read_record
from tpu_train.training.teacher import match_teacher, open_teacher

LABELS = "pseudo_labels"  # the folder of a round's shards


@dataclass(frozen=True)
class RoundsRequest:
    """Data and settings of :func:`run_rounds`."""

    recipes: Sequence[Recipe]  # the student of each round; the last is that of all later rounds
    rounds: int
    teacher: str  # a .keras file
    unlabeled: LabeledImages
    training: ImageSource
    evaluation: ImageSource
    evaluation_images: LabeledImages  # the same images, for the evaluation of files
    workdir: str
    labeling: LabelingOptions = field(default_factory=LabelingOptions)
    save_minutes: float = 10.0
    test: ImageSource | None = None  # images that no student may learn from, too


def check_request(request: RoundsRequest, strategy: tf.distribute.Strategy) -> None:
    """Raises ``ValueError`` for rounds that cannot work, before anything slow."""
    if request.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {request.rounds}")
    if not len(request.evaluation_images):
        raise ValueError(
            "rounds are compared by the evaluation images, and there are none: give --holdout=0.2"
        )
    for recipe in request.recipes:
        if not recipe.unlabeled_ratio:
            raise ValueError(
                f"recipe {recipe.name} has an unlabeled_ratio of 0: give --unlabeled_ratio=1 or "
                "more, or a recipe such as noisy-student-finetune"
            )
        check_settings(recipe, request.training, strategy.num_replicas_in_sync)
        check_phases_without_evaluations(recipe)
    teacher = open_teacher(request.teacher, strategy)
    match_teacher(teacher, request.training.classes)
    if tf.io.gfile.exists(os.path.join(request.workdir, "recipe.json")):
        raise ValueError(
            f"{request.workdir} has a run of effnet-train: give another --workdir for the rounds"
        )
    folder = _folder(request, 1)
    is_labeled(teacher, request.unlabeled, os.path.join(folder, LABELS), request.labeling)
    for number in range(1, request.rounds + 1):
        _check_student(request, number)


def _folder(request, number):
    return os.path.join(request.workdir, f"round-{number}")


def _recipe(request, number):
    return request.recipes[min(number, len(request.recipes)) - 1]


def _check_student(request, number):
    """Raises ``ValueError`` if a round has a student of other settings or labeled data."""
    record = read_record(_folder(request, number))
    if record is None:
        return
    recipe = _recipe(request, number)
    training = images_of_epoch(request.training, recipe)
    current = identify_run(recipe, training, request.evaluation)
    differing = differences(record.get("run", {}), current)
    if differing:
        raise ValueError(
            f"{_folder(request, number)} has a student of other settings ({differing}): give the "
            "same flags and data to resume, or another --workdir"
        )


def _warn_of_another_split(request, log):
    record = read_record(os.path.dirname(os.path.abspath(request.teacher)))
    if not record or record.get("training_data") != request.training.name:
        return
    seed, images = record["recipe"]["seed"], record["training_images"]
    if (seed, images) != (request.recipes[0].seed, request.training.examples):
        log(
            f"{request.teacher} was trained on another split of these data, with {images:,} images "
            f"and seed {seed}, so that it has seen evaluation images: give the --holdout and "
            "--seed of its run"
        )


def run_rounds(request: RoundsRequest, strategy: tf.distribute.Strategy) -> tuple[Round, ...]:
    """The rounds, from that of the teacher (number 0) to the last one that was trained.

    Ends early after a round whose student is not better than its teacher on the evaluation images.
    `workdir` has the folders ``round-1``, ``round-2``, ... with all files of a run, ``teacher``
    with the evaluation of the first teacher, and ``rounds.json``, ``rounds.html`` and
    ``rounds.png``.

    Raises ``ValueError`` as :func:`check_request`, and for folders of other rounds, and what
    :func:`tpu_train.training.run.train` and
    :func:`tpu_train.noisy_student.pseudo_labels.write_pseudo_labels` raise.
    """
    check_request(request, strategy)
    os.makedirs(request.workdir, exist_ok=True)
    with locked(request.workdir):
        remove_leftovers(request.workdir, FILES)
        return _run_rounds(request, strategy)


def _run_rounds(request, strategy):
    log = request.labeling.log
    _warn_of_another_split(request, log)
    rounds = [_evaluate(request, 0, request.teacher, os.path.join(request.workdir, "teacher"))]
    log(describe(rounds[-1]))
    for number in range(1, request.rounds + 1):
        log(f"round {number} of {request.rounds}: the teacher is {rounds[-1].model}")
        folder = _folder(request, number)
        labels = _label(request, strategy, rounds[-1].model, os.path.join(folder, LABELS))
        model = _train(request, strategy, number, folder, labels)
        result = _evaluate(request, number, model, folder)
        rounds.append(replace(result, pseudo_labeled=labels.images, examples=labels.examples))
        write_rounds(request.workdir, rounds)
        log(describe(rounds[-1]))
        if rounds[-1].accuracy <= rounds[-2].accuracy:
            log(
                f"round {number} does not help: {rounds[-1].accuracy:.2%} after "
                f"{rounds[-2].accuracy:.2%}. No further round is trained; the best model is "
                f"{rounds[-2].model}"
            )
            break
    return tuple(rounds)


@released_graphs()
def _label(request, strategy, teacher_path, folder):
    teacher = open_teacher(teacher_path, strategy)
    return write_pseudo_labels(teacher, request.unlabeled, folder, strategy, request.labeling)


@released_graphs()
def _train(request, strategy, number, folder, labels):
    """Trains the student of a round, or resumes; the path of its model."""
    held_out = [s for s in (request.evaluation, request.test) if s is not None]
    unlabeled = open_pseudo_labels(labels.folder, request.training.classes, held_out)
    for note in unlabeled.notes:
        request.labeling.log(note)
    model = os.path.join(folder, "model.keras")
    try:
        train(
            _recipe(request, number),
            replace(request.training, unlabeled=unlabeled),
            request.evaluation,
            folder,
            strategy,
            save_minutes=request.save_minutes,
            stop=request.labeling.stop,
            pages=False,
        )
    except CompleteError:
        request.labeling.log(f"round {number} was trained before: {model}")
    return model


@released_graphs()
def _evaluate(request, number, model, folder):
    progress = stoppable(request.labeling, "evaluating", progress_lines())
    metrics = evaluate_model(model, request.evaluation_images, folder, progress)
    loaded = load_keras_file(model)
    return Round(
        number=number,
        model=model,
        parameters=loaded.count_params(),
        accuracy=metrics["top1"]["value"],
        interval=(metrics["top1"]["low"], metrics["top1"]["high"]),
        loss=metrics["loss"],
        calibration_error=metrics["expected_calibration_error"],
        images=metrics["images"],
    )
