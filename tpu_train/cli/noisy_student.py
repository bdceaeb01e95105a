"""``effnet-train noisy-student --teacher=teacher.keras --data=LABELED --unlabeled=IMAGES
--rounds=3 --workdir=rounds``: trains students, each of which is the next teacher.

A round labels the images, trains a student on them and the labeled ones, and evaluates it. It ends
after the first student that is not better than its teacher. The exit status is 0 when all rounds
are finished, 1 after a failed training, 2 for bad input, and 75 for rounds that were stopped: the
same command resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys

from absl import flags

from keras_effnet.datasets.dataset import check_path
from keras_effnet.keras_file import load_keras_file
from keras_effnet.model_cost import cost
from tpu_train.checkpointing.preemption import STOPPED, StoppedError, interrupts, parse_duration
from tpu_train.cli import command, data_flags, outputs, recipe_flags
from tpu_train.cli.pseudo_label import define_selection, rule_of
from tpu_train.device_names import LOCAL_DEVICES, check_device
from tpu_train.folder_lock import check_unlocked
from tpu_train.noisy_student.hosts import hosts_of_environment
from tpu_train.recipes.schema import check, model_kind
from tpu_train.training.model_source import check_source, check_teacher, variant_of

INTRODUCTION = """Trains students on labeled and pseudo-labeled images; each is the next teacher.

  effnet-train noisy-student --teacher=run1/model.keras --data=my_photos \\
      --unlabeled=photos --rounds=3 --workdir=rounds

A round labels the images, trains a student on them and the labeled ones, and
evaluates it. The command ends after the first student that is not better than
its teacher."""

GROUPS = {
    "data": (
        "effnet-train noisy-student --data=my_photos --unlabeled=photos",
        ("data", "unlabeled", "holdout", "max_corrupt", "on_duplicates"),
    ),
    "rounds": (
        "effnet-train noisy-student --teacher=run1/model.keras --rounds=3",
        ("rounds", "students", "workdir", "recipe"),
    ),
    "selection of images": (
        "effnet-train noisy-student --threshold=0.5 --images_per_class=1000",
        ("threshold", "balance", "images_per_class"),
    ),
    "stop and resume": (
        "effnet-train noisy-student --workdir=rounds --stop_after=11h",
        ("stop_after", "save_minutes", "device"),
    ),
}


def main(argv=None):
    """Trains rounds; returns the exit status."""
    return command.run("effnet-train noisy-student", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    recipes = _recipes(values)
    manifest = _check(values)
    for recipe in recipes:
        check_source(recipe)
    return command.resumable(functools.partial(_train, recipes, manifest), values)


def define():
    """The flags of the command."""
    values = flags.FlagValues()
    to_values = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string(
        "unlabeled", None, "images to label: as --data of pseudo-label", **to_values
    )
    flags.DEFINE_string(
        "workdir", None, "folder for the rounds: new, or incomplete to resume", **to_values
    )
    flags.DEFINE_integer("rounds", 3, "maximum number of rounds", lower_bound=1, **to_values)
    flags.DEFINE_list(
        "students",
        [],
        "networks of the students, one for each round, the last for all later ones: equal to the "
        "teacher or larger, e.g. efficientnet-b0,efficientnet-b2 (default: --model of the recipe)",
        **to_values,
    )
    define_selection(values)
    flags.DEFINE_string("device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count]", **to_values)
    flags.DEFINE_string(
        "stop_after", "", "save a checkpoint and stop after this time, e.g. 11h", **to_values
    )
    flags.DEFINE_float(
        "save_minutes",
        10.0,
        "minutes between checkpoints within a phase",
        lower_bound=0,
        **to_values,
    )
    recipe_flags.define(values, default="noisy-student-finetune")
    return values


def _recipes(values):
    """The recipe of each round. --teacher is the first teacher, not one of distillation."""
    teacher, values["teacher"].value = values.teacher, None
    recipe = recipe_flags.chosen(values)
    values["teacher"].value = teacher
    recipes = [
        dataclasses.replace(recipe, model=name) for name in values.students or [recipe.model]
    ]
    for recipe in recipes:
        check(recipe)
    return recipes


def _check(values):
    """Raises ``ValueError`` for flags that cannot work, before TensorFlow is imported.

    Returns what :func:`tpu_train.cli.data_flags.check` does.
    """
    for flag in ("teacher", "data", "unlabeled", "workdir"):
        if not getattr(values, flag):
            raise ValueError(f"--{flag} is missing; see effnet-train noisy-student --help")
    check_device(values.device, LOCAL_DEVICES)
    check_teacher("teacher", values.teacher)
    if values.teacher_weight is not None:
        raise ValueError(
            "--teacher_weight is not used: in rounds, students learn the pseudo-labels of their "
            "teacher"
        )
    rule_of(values, 0)
    manifest = data_flags.check(values, "effnet-train noisy-student")
    check_path(values.unlabeled)
    if "://" in values.workdir:
        raise ValueError(f"--workdir={values.workdir}: rounds need a folder of this machine")
    for flag in ("data", "unlabeled"):
        outputs.check_folder("workdir", values.workdir, values[flag].value, flag)
    check_unlocked(values.workdir)
    hosts = hosts_of_environment(0).count
    if hosts > 1:
        raise ValueError(
            f"TF_CONFIG has {hosts} hosts, and rounds run on one machine: unset TF_CONFIG, or give "
            "effnet-train pseudo-label and effnet-train, which share their work, in turn"
        )
    if values.stop_after:
        parse_duration(values.stop_after)
    return manifest


def _train(recipes, manifest, values):
    # Imported here, so that --help and bad flags do not wait for TensorFlow.
    from keras_effnet.datasets.training_data import open_training_data
    from tpu_train.input_pipeline.data_loading import open_data, open_path, open_test_images
    from tpu_train.input_pipeline.tfrecord_shard import PrepareError
    from tpu_train.noisy_student.pseudo_labels import LabelingOptions
    from tpu_train.noisy_student.rounds import RoundsRequest, run_rounds
    from tpu_train.noisy_student.unlabeled_images import open_unlabeled
    from tpu_train.training.distribution import make_local_strategy
    from tpu_train.training.run import TrainingError

    stop_after = parse_duration(values.stop_after) if values.stop_after else 0.0
    strategy = make_local_strategy(values.device)
    options = {
        "holdout": values.holdout,
        "seed": recipes[0].seed,
        "max_corrupt": values.max_corrupt,
        "on_duplicates": values.on_duplicates,
    }
    try:
        with interrupts(stop_after) as stop:
            options["dataset"] = open_path(values.data, manifest)
            training, evaluation = open_data(values.data, **options)
            test = open_test_images(
                options["dataset"], training.classes, max_corrupt=values.max_corrupt
            )
            unlabeled = open_unlabeled(values.unlabeled)
            data_flags.print_notes(training, evaluation, unlabeled)
            _, evaluation_images = open_training_data(values.data, **options)
            request = RoundsRequest(
                recipes=recipes,
                rounds=values.rounds,
                teacher=values.teacher,
                unlabeled=unlabeled,
                training=training,
                evaluation=evaluation,
                evaluation_images=evaluation_images,
                workdir=values.workdir,
                labeling=LabelingOptions(
                    rule=rule_of(values, recipes[0].seed),
                    max_corrupt=values.max_corrupt,
                    stop=stop,
                ),
                save_minutes=values.save_minutes,
                test=test,
            )
            for recipe in recipes:
                _print_size(recipe, len(training.classes), values.teacher)
            rounds = run_rounds(request, strategy)
    except (TrainingError, PrepareError) as error:
        print(f"effnet-train noisy-student: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        print(f"effnet-train noisy-student: {error}", file=sys.stderr)
        return STOPPED
    best = max(rounds, key=lambda r: r.accuracy)
    print(f"best: {best.model}, top-1 {best.accuracy:.2%} of the evaluation images")
    print(f"table and plot {os.path.join(values.workdir, 'rounds.html')}")
    return 0


def _print_size(recipe, classes, teacher):
    """Prints a note if the student is smaller than the first teacher."""
    if model_kind(recipe.model) != "variant":
        return
    student = cost(variant_of(recipe), classes=classes).parameters
    taught = load_keras_file(teacher).count_params()
    if student < taught:
        print(
            f"{recipe.model} has {student:,} parameters and the teacher {taught:,}: a student is "
            "usually at least as large as its teacher (--students)",
            file=sys.stderr,
        )
