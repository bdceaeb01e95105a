"""``effnet-train --recipe=photos --data=my_photos --workdir=run1``: parses flags and trains.

Exit status: 0 after a finished run, now or before, 1 after a failed one, 2 for invalid input, and
75 for a run that was stopped (Ctrl-C, SIGTERM, --stop_after, a preemption notice) and saved a
checkpoint: the same command resumes it.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import math
import os
import sys
from collections.abc import Sequence

from absl import flags

from keras_effnet.datasets.dataset import Dataset
from tpu_train import callbacks
from tpu_train.callbacks.records import Callback, CallbackError
from tpu_train.checkpointing.preemption import (
    STOPPED,
    CompleteError,
    StoppedError,
    interrupts,
    parse_duration,
)
from tpu_train.checkpointing.run_identity import check_recipe
from tpu_train.cli import command, data_flags, outputs, recipe_flags
from tpu_train.device_names import check_device
from tpu_train.folder_lock import check_unlocked
from tpu_train.imported_function import check_name, import_function
from tpu_train.recipes import phases
from tpu_train.recipes.evaluation_settings import check_eval_epochs
from tpu_train.recipes.schema import Recipe, check_unlabeled, show
from tpu_train.tf_config import read_cluster
from tpu_train.training.model_source import check_source

INTRODUCTION = """Trains an EfficientNet with progressive learning.

  effnet-train --recipe=photos --data=my_photos --workdir=run1

Other commands: effnet-train prepare | preview | plan | search | pseudo-label |
noisy-student | doctor, each with --help. Recipe flags change one setting of the
recipe; their help has its value in the recipe that --recipe names before
--help."""

GROUPS = {
    "data": (
        "effnet-train --data=my_photos --holdout=0.1 --workdir=run1",
        ("data", "holdout", "unlabeled", "max_corrupt", "on_duplicates"),
    ),
    "run": (
        "effnet-train --recipe=finetune --data=my_photos --workdir=run1",
        ("recipe", "workdir", "device", "overwrite", "wait_for_workers"),
    ),
    "inspect a recipe without training": (
        "effnet-train --recipe=efficientnetv2-s-paper --show",
        ("show", "examples"),
    ),
    "stop and resume": (
        "effnet-train --data=my_photos --workdir=run1 --stop_after=90m",
        ("stop_after", "save_minutes", "keep_checkpoints", "on_nan", "export"),
    ),
    "evaluate and report": (
        "effnet-train --data=my_photos --workdir=run1 --eval_epochs=1",
        ("eval_epochs", "pages", "callback", "profile"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, or shows a recipe; returns the exit status. `argv` excludes the program's name."""
    return command.run("effnet-train", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    recipe = recipe_flags.chosen(values)
    if values.show:
        print(show(recipe))
        print()
        planned = phases.make_phases(recipe, values.examples)
        print(phases.show(planned))
        print(f"for {values.examples} training images (--examples=...)")
        print(phases.batch_norm_warning(recipe, planned), end="")
        return 0
    if values.teacher_weight is not None and not recipe.teacher:
        raise ValueError("--teacher_weight is that of a teacher, and there is none: give --teacher")
    manifest = _check(values)
    check_unlabeled(recipe, values.unlabeled)
    if not values.export:
        check_eval_epochs(recipe, values.eval_epochs)
    check_source(recipe)
    try:
        if not values.overwrite:
            check_recipe(recipe, values.workdir)
        return _train(recipe, values, manifest)
    except CompleteError as error:
        print(f"effnet-train: {error}")
        return 0


def define() -> flags.FlagValues:
    """All flags: those of the run, and one for each field of a recipe."""
    values = flags.FlagValues()
    to_values = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string(
        "workdir", None, "folder for the model, checkpoints and metrics (required)", **to_values
    )
    flags.DEFINE_string(
        "device",
        "auto",
        "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker",
        **to_values,
    )
    flags.DEFINE_string(
        "unlabeled",
        "",
        "pseudo-labeled images to train on as well (unlabeled_ratio): the --out of "
        "effnet-train pseudo-label",
        **to_values,
    )
    flags.DEFINE_boolean("overwrite", False, "replace an existing run in workdir", **to_values)
    flags.DEFINE_float(
        "eval_epochs",
        0.0,
        "epochs between evaluations; 0: only at the end of each phase",
        lower_bound=0,
        **to_values,
    )
    flags.DEFINE_string(
        "stop_after",
        "",
        "save a checkpoint and stop after this time, e.g. 11h or 90m; empty for no limit",
        **to_values,
    )
    flags.DEFINE_enum(
        "on_nan",
        "stop",
        ["stop", "skip"],
        "if the loss becomes NaN or Inf: stop, or skip (resume from the last checkpoint without "
        "the steps that caused it)",
        **to_values,
    )
    flags.DEFINE_boolean(
        "keep_checkpoints", False, "keep the checkpoints of a finished run", **to_values
    )
    flags.DEFINE_float(
        "save_minutes",
        10.0,
        "minutes between checkpoints within a phase",
        lower_bound=0,
        **to_values,
    )
    flags.DEFINE_string(
        "callback",
        "",
        "called with records of the run: wandb, mlflow, or module:function (docs/callbacks.md)",
        **to_values,
    )
    flags.DEFINE_string(
        "profile",
        "",
        "profile these training steps for TensorBoard, e.g. 100:110",
        **to_values,
    )
    flags.DEFINE_string(
        "wait_for_workers",
        "30m",
        "how long to wait for the other workers of TF_CONFIG to start, e.g. 2h or 90s",
        **to_values,
    )
    flags.DEFINE_boolean(
        "pages",
        True,
        "evaluate the final model once more, and write evaluation.html and test.html",
        **to_values,
    )
    flags.DEFINE_boolean(
        "export",
        False,
        "write model.keras from the last checkpoint of a stopped run, without training; "
        "checkpoint.keras while it trains",
        **to_values,
    )
    flags.DEFINE_boolean(
        "show", False, "print the recipe and its phases without training", **to_values
    )
    flags.DEFINE_integer(
        "examples",
        10_000,
        "number of training images assumed by --show",
        lower_bound=1,
        **to_values,
    )
    recipe_flags.define(values)
    return values


def _check(values):
    """Raises ``ValueError`` for flags that cannot work, before TensorFlow is imported.

    Returns what :func:`tpu_train.cli.data_flags.check` does.
    """
    for flag in ("data", "workdir"):
        if not getattr(values, flag):
            raise ValueError(f"--{flag} is missing; see effnet-train --help")
    existing = os.path.abspath(values.workdir)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if "://" not in values.workdir and not os.path.isdir(existing):
        raise ValueError(f"workdir {values.workdir!r} is not writable: {existing} is a file")
    check_device(values.device)
    if values.stop_after:
        parse_duration(values.stop_after)
    parse_duration(values.wait_for_workers)
    _profile(values.profile)
    for name in ("eval_epochs", "save_minutes"):
        if not math.isfinite(values[name].value):
            raise ValueError(f"{name} must be a number, got {values[name].value}")
    if values.unlabeled and "://" not in values.unlabeled and not os.path.isdir(values.unlabeled):
        raise ValueError(
            f"unlabeled {values.unlabeled!r} is not a folder: give the --out of effnet-train "
            "pseudo-label"
        )
    if values.callback:
        _check_callback(values.callback)
    manifest = data_flags.check(values, "effnet-train")
    outputs.check_folder("workdir", values.workdir, values.data)
    if values.export and "://" not in values.workdir:
        if not os.path.isdir(os.path.join(values.workdir, "checkpoints")):
            raise ValueError(
                f"{values.workdir} has no checkpoint to export: train first, without --export"
            )
    elif not os.environ.get("TF_CONFIG"):  # whose workers share it
        check_unlocked(values.workdir)
    if values.device in ("auto", "multi-worker"):
        read_cluster(os.environ.get("TF_CONFIG", ""))
    return manifest


def _profile(text):
    """(first, end) of --profile=FIRST:END, or None."""
    if not text:
        return None
    first, _, end = text.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise ValueError(
            f"--profile={text} is not a range of steps: give FIRST:END, e.g. 100:110 for ten steps"
        )
    return int(first), int(end)


def _check_callback(name):
    if name in callbacks.NAMES and importlib.util.find_spec(name) is None:
        raise ValueError(
            f"--callback={name} needs the package {name}: pip install 'keras_effnet[{name}]'"
        )
    if name not in callbacks.NAMES and ":" not in name:
        names = ", ".join(callbacks.NAMES)
        raise ValueError(f"--callback={name} is unknown: give {names}, or module:function")
    check_name("callback", callbacks.NAMES.get(name, name))


def _train(recipe: Recipe, values: flags.FlagValues, manifest: Dataset | None) -> int:
    # Imported here, so that --show, --help and bad flags do not wait for TensorFlow.
    from tpu_train.input_pipeline.data_loading import open_data, open_path, open_test_images
    from tpu_train.input_pipeline.pseudo_labeled import open_pseudo_labels
    from tpu_train.training.distribution import make_strategy
    from tpu_train.training.evaluation_history import metric_of
    from tpu_train.training.run import TrainingError, export_stopped, train

    gc.freeze()  # garbage collections skip the imported modules, which took 0.2 s each

    stop_after = parse_duration(values.stop_after) if values.stop_after else 0.0
    wait_seconds = parse_duration(values.wait_for_workers)
    strategy = make_strategy(values.device, wait_seconds)  # before any other TensorFlow call
    callback = None
    if values.callback:
        name = callbacks.NAMES.get(values.callback, values.callback)
        callback = Callback(import_function("callback", name), values.callback)
    try:
        with interrupts(stop_after) as stop:  # the time limit starts here
            dataset = open_path(values.data, manifest)
            training, evaluation = open_data(
                values.data,
                dataset=dataset,
                holdout=values.holdout,
                seed=recipe.seed,
                max_corrupt=values.max_corrupt,
                on_duplicates=values.on_duplicates,
            )
            test = None
            if values.unlabeled or (values.pages and not values.export):
                test = open_test_images(dataset, training.classes, max_corrupt=values.max_corrupt)
            if values.unlabeled:
                held_out = [s for s in (evaluation, test) if s is not None]
                unlabeled = open_pseudo_labels(values.unlabeled, training.classes, held_out)
                training = dataclasses.replace(training, unlabeled=unlabeled)
            data_flags.print_notes(training, evaluation, training.unlabeled)
            if values.export:
                path, step = export_stopped(recipe, training, evaluation, values.workdir, strategy)
                is_stopped = os.path.basename(path) == "model.keras"
                resume = "the same command without --export resumes"
                print(
                    f"model {path}, of step {step}; {resume if is_stopped else 'the run continues'}"
                )
                return 0
            result = train(
                recipe,
                training,
                evaluation,
                values.workdir,
                strategy,
                overwrite=values.overwrite,
                save_minutes=values.save_minutes,
                eval_epochs=values.eval_epochs,
                on_nan=values.on_nan,
                keep_checkpoints=values.keep_checkpoints,
                stop=stop,
                callback=callback,
                profile=_profile(values.profile),
                test=test if values.pages else None,
                pages=values.pages,
            )
    except (TrainingError, CallbackError) as error:
        print(f"effnet-train: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        print(f"effnet-train: {error}", file=sys.stderr)
        return STOPPED
    accuracy = (
        "not evaluated" if result.accuracy is None else f"evaluation accuracy {result.accuracy:.2%}"
    )
    print(
        f"{accuracy} after {result.seconds:.0f} s; model {result.model_path}, curves "
        f"{result.curves_path}"
    )
    if result.test_accuracy is not None:
        print(f"test accuracy {result.test_accuracy:.2%}")
    for page in result.pages.values():
        print(f"evaluation page {page}")
    print(f"model card {result.card_path}")
    if result.best != result.exported:
        metric, best = metric_of(recipe), result.best
        value = f"{best['ema']:.2%}" if metric == "accuracy" else f"{best['loss_ema']:.4f}"
        print(f"best evaluation {metric} {value}, after step {best['step']}: {result.best_path}")
    return 0


if __name__ == "__main__":
    from tpu_train.cli import main as command_line

    sys.exit(command_line())
