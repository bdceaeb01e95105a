"""One training run, from top to bottom: check, build, restore, train, export.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (EMA weights, class scores, normalization inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png``, ``tensorboard/``, ``evaluation.html`` with its tables, and
``model_card.md``; ``best.keras`` if an earlier evaluation was better (with early stopping, that one
is ``model.keras``), in what :func:`tpu_train.training.evaluation_history.metric_of` says; and
``checkpoints/`` until it has finished. Called again after an interruption, it resumes and ends with
the weights of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import tensorflow as tf

from keras_effnet.finetuning import has_layer_groups
from keras_effnet.label_file import write_labels
from keras_effnet.model_card.output_files import RUN_CARD
from tpu_train.callbacks.records import Callback, end_reported
from tpu_train.checkpointing import workdir as workdirs
from tpu_train.checkpointing.manager import CheckpointManager
from tpu_train.checkpointing.run_identity import onednn_enabled
from tpu_train.folder_lock import locked
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.targets import class_weights
from tpu_train.recipes.phases import batch_norm_warning, make_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.remote_files import is_remote
from tpu_train.training import recovery, run_record
from tpu_train.training.distribution import describe, make_gather
from tpu_train.training.evaluation import make_evaluation
from tpu_train.training.evaluation_history import find_best, metric_of
from tpu_train.training.export import make_export
from tpu_train.training.loop import train_phases
from tpu_train.training.metrics_writer import MetricsWriter
from tpu_train.training.plots import plot_curves
from tpu_train.training.profiler import Profiler, check_profile
from tpu_train.training.recovery import ON_NAN, TrainingError, reporting_lost_workers
from tpu_train.training.run_checks import check_evaluations, check_run, claimed
from tpu_train.training.run_context import PhaseResult, RunContext, TrainingHistory
from tpu_train.training.run_outputs import take_best_model, write_reports
from tpu_train.training.run_setup import build_networks, build_training, make_plan
from tpu_train.training.step import graph_rewriting

__all__ = ["PhaseResult", "Result", "TrainingError", "train"]


@dataclass(frozen=True)
class Result:
    """Files and accuracies of a finished run."""

    model_path: str
    best_path: str  # exists only if an earlier evaluation was better
    curves_path: str
    labels_path: str
    classes: tuple[str, ...]
    phases: tuple[PhaseResult, ...]
    evaluations: tuple[dict, ...]  # {"step", "ema", "non_ema": accuracies in [0, 1], "loss_ema"...}
    seconds: float
    card_path: str  # the model card
    pages: Mapping[str, str]  # paths of the evaluation pages: "evaluation" and "test"
    test_accuracy: float | None  # in [0, 1], of the exported model on the test images
    best: dict | None  # the best of the evaluations; None without evaluation images
    exported: dict | None  # the evaluation of the exported model

    @property
    def accuracy(self) -> float | None:
        """Accuracy in [0, 1] of the exported model (EMA weights) on the evaluation images."""
        return self.exported and self.exported["ema"]


def train(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    workdir: str | os.PathLike[str],
    strategy: tf.distribute.Strategy,
    *,
    overwrite: bool = False,
    stream: TextIO | None = None,
    save_minutes: float = 10.0,
    eval_epochs: float = 0.0,
    on_nan: str = "stop",
    keep_checkpoints: bool = False,
    stop: Callable[[], str] = lambda: "",
    callback: Callback | None = None,
    profile: tuple[int, int] | None = None,
    test: ImageSource | None = None,
    pages: bool = True,
) -> Result:
    """Trains from the recipe's weights, or resumes from the checkpoint in `workdir`.

    A checkpoint is written at the end of every phase, every `save_minutes`, at the best evaluation
    so far, and before stopping.

    Args:
        recipe: the settings.
        training: images with labels.
        evaluation: images with labels of the same classes.
        workdir: a local folder, or a remote one (``gs://``).
        strategy: from :func:`tpu_train.training.distribution.make_strategy`.
        overwrite: replace a run in `workdir` instead of resuming it.
        stream: where progress is shown; standard error by default.
        save_minutes: minutes between checkpoints within a phase.
        eval_epochs: epochs between evaluations; 0: only at the end of each phase.
        on_nan: if the loss becomes NaN or Inf, "stop", or "skip": roll back to the last
            checkpoint and skip the steps that caused it.
        keep_checkpoints: keep them when the run has finished.
        stop: returns the reason to stop, or ""; called after every host call.
        callback: called by the chief with the records of :mod:`tpu_train.callbacks.records`.
        profile: (first, end) of the steps that are profiled for TensorBoard.
        test: images of the same classes, which are evaluated once, at the end of the run.
        pages: write evaluation.html, and test.html for `test`, at the end of the run.

    Raises ``ValueError`` for invalid input, before anything slow (its subclass ``CompleteError`` if
    `workdir` has this run, finished), and while another process writes to `workdir`;
    :class:`TrainingError` if the run cannot continue, and
    :class:`tpu_train.checkpointing.preemption.StoppedError` after a stop.
    """
    start = time.monotonic()
    workdir = os.fspath(workdir)
    if on_nan not in ON_NAN:
        raise ValueError(f"Unknown on_nan {on_nan!r}: give {' or '.join(ON_NAN)}")
    check_evaluations(recipe, evaluation, eval_epochs)
    check_run(recipe, training, evaluation, workdir, strategy, overwrite, eval_epochs)
    is_chief = strategy.extended.should_checkpoint
    with claimed(workdir, writes=is_chief, overwrite=overwrite):
        record = None if overwrite else run_record.read_record(workdir)
        plan = make_plan(recipe, training, evaluation, record, eval_epochs)
        check_profile(profile, plan.phases[-1].end_step)
        networks = build_networks(plan, strategy)
        callback = callback if callback and is_chief else Callback()
        files = workdirs.Workdir(workdir, writes=is_chief)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(files))
            checkpoints = CheckpointManager(
                files.checkpoints,
                plan.identity,
                save_minutes,
                writes=is_chief,
                gather=make_gather(strategy),
                after_save=lambda: _after_save(files, checkpoints, callback),
            )
            restored, messages = _restore(plan, networks, checkpoints, files, overwrite)
            first_step, history = restored or (0, None)
            # Before the first file: a callback that cannot start leaves nothing to clean up.
            resumed = restored is not None
            callback("run_start", first_step, _start_record(plan, workdir, strategy, resumed))
            metrics = MetricsWriter(
                files.local(""), stream, first_step=first_step, callback=callback
            )
            stack.enter_context(contextlib.closing(metrics))
            profiler = Profiler(metrics.events, profile)
            stack.enter_context(contextlib.closing(profiler))
            for message in (*messages, *_describe_run(plan, networks, strategy)):
                metrics.log(message)
            if resumed:
                metrics.log(f"resuming after step {first_step}, from {checkpoints.folder}")
            _write_record(plan, files)
            stack.enter_context(end_reported(callback, lambda: metrics.step))
            stack.enter_context(reporting_lost_workers(strategy, checkpoints.folder))
            stack.enter_context(graph_rewriting(strategy))
            export = make_export(recipe, plan.classes, networks.ema_model)

            def keep_best():
                export(files.local(workdirs.BEST))
                files.publish()

            run = RunContext(
                recipe=recipe,
                phases=plan.phases,
                training=plan.training,
                strategy=strategy,
                model=networks.model,
                state=networks.state,
                class_weights=class_weights(recipe.class_weights, plan.training),
                teacher=networks.teacher,
                evaluate=_evaluation_of(plan, networks, strategy),
                eval_epochs=eval_epochs,
                rate_factor=networks.rate_factor,
                metrics=metrics,
                profiler=profiler,
                checkpoints=checkpoints,
                on_nan=on_nan,
                stop=stop,
                on_improvement=keep_best,
            )
            history = train_phases(run, restored)
            exported, best = _write_model(plan, networks, history, files, export)
            sources = {"evaluation": evaluation, "test": test} if pages else {}
            evaluations = write_reports(recipe, sources, files, strategy, networks.ema_model)
            if best is not None and best is history.evaluations[-1]:
                files.remove(workdirs.BEST)  # not earlier: a killed run needs it to finish again
        if is_chief and not keep_checkpoints:
            files.remove(workdirs.CHECKPOINTS)  # last: until here the run could be resumed
        return Result(
            model_path=os.path.join(files.path, workdirs.MODEL),
            best_path=os.path.join(files.path, workdirs.BEST),
            curves_path=os.path.join(files.path, "curves.png"),
            labels_path=os.path.join(files.path, "labels.txt"),
            card_path=os.path.join(files.path, RUN_CARD),
            classes=training.classes,
            phases=tuple(history.phases),
            evaluations=tuple(history.evaluations),
            pages={name: os.path.join(files.path, f"{name}.html") for name in evaluations},
            test_accuracy=evaluations["test"].top1.value if "test" in evaluations else None,
            best=best,
            exported=exported,
            seconds=time.monotonic() - start,
        )


def export_stopped(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    workdir: str | os.PathLike[str],
    strategy: tf.distribute.Strategy,
) -> tuple[str, int]:
    """Writes a model and labels.txt from the latest checkpoint of a run: (path, its step).

    The model is ``model.keras`` of a stopped run, which can be resumed afterwards. While another
    process trains in `workdir`, which will write ``model.keras`` itself, it is
    ``checkpoint.keras``. Raises ``ValueError`` if `workdir` has no checkpoint of this run.
    """
    workdir = os.fspath(workdir)
    plan = make_plan(recipe, training, evaluation, run_record.read_record(workdir))
    is_chief = strategy.extended.should_checkpoint
    with contextlib.ExitStack() as stack:
        name = workdirs.MODEL
        if is_chief:
            try:
                stack.enter_context(locked(workdir))
            except ValueError:
                name = workdirs.RUNNING
        files = workdirs.Workdir(workdir, writes=is_chief)
        stack.enter_context(contextlib.closing(files))
        checkpoints = CheckpointManager(
            files.checkpoints, plan.identity, 0.0, writes=False, gather=make_gather(strategy)
        )
        _, ema_model, state = build_training(recipe, plan.phases, plan.classes, strategy)
        restored = checkpoints.restore_latest(state.variables)
        if restored is None:
            raise ValueError(
                f"{workdir} has no checkpoint to export: train first, without --export"
            )
        write_labels(files.local("labels.txt"), training.classes)
        make_export(recipe, plan.classes, ema_model)(files.local(name))
    return os.path.join(workdir, name), restored.step


def _restore(plan, networks, checkpoints, files, overwrite):
    """((step, history) of the latest checkpoint, or None; messages). Prepares the folder."""
    messages, restored, history = [], None, None
    if not overwrite:
        restored = checkpoints.restore_latest(networks.state.variables, messages.append)
    elif files.writes:
        files.remove(workdirs.CHECKPOINTS)
    if restored:
        history = TrainingHistory.from_json(restored.extra_state)
    run_record.check_extension(plan.planned_epochs, plan.phases, history)
    files.prepare(resume=restored is not None)
    return restored and (restored.step, history), messages


def _after_save(files, checkpoints, callback):
    files.publish()
    callback("checkpoint", checkpoints.latest_step, {"folder": checkpoints.folder})


def _start_record(plan, workdir, strategy, resumed):
    """What the callback gets at the start of a run."""
    return {
        "workdir": workdir if is_remote(workdir) else os.path.abspath(workdir),
        "recipe": dataclasses.asdict(plan.recipe),
        "phases": [dataclasses.asdict(phase) for phase in plan.phases],
        "classes": list(plan.training.classes),
        "training_images": plan.images.examples,
        "evaluation_images": plan.evaluation.examples,
        "devices": describe(strategy),
        "resumed": resumed,
    }


def _write_record(plan, files):
    run_record.write_record(
        files.local("recipe.json"),
        *(plan.recipe, plan.phases, plan.images, plan.evaluation),
        *(plan.planned_epochs, plan.identity),
    )


def _evaluation_of(plan, networks, strategy):
    """The function that evaluates, or None without evaluation images."""
    if not plan.evaluation.examples:
        return None
    models = {"ema": networks.ema_model, "non_ema": networks.model}
    return make_evaluation(strategy, models, plan.evaluation, plan.recipe)


def _write_model(plan, networks, history, files, export):
    """Writes model.keras, labels.txt and the curves: the evaluations (exported one, best one)."""
    write_labels(files.local("labels.txt"), plan.training.classes)
    plot_curves(files.local("metrics.jsonl"), files.local("curves.png"))
    last = history.evaluations[-1] if history.evaluations else None
    best = find_best(history.evaluations, metric_of(plan.recipe))
    has_best = os.path.exists(files.local(workdirs.BEST))
    exported = best if plan.recipe.early_stopping_patience and has_best else last
    recovery.check_exported(plan.recipe, exported, best)
    if exported is last:
        export(files.local(workdirs.MODEL))
    else:
        take_best_model(files, networks.ema_model)
    return exported, best


def _describe_run(plan, networks, strategy):
    """The first log lines of a run."""
    recipe, images = plan.recipe, plan.images
    lines = [
        f"{recipe.model}, {images.examples} training and {plan.evaluation.examples} evaluation "
        f"images of {plan.classes} classes, {describe(strategy)}"
    ]
    if images.unlabeled is not None:
        lines.append(
            f"{images.unlabeled.examples} pseudo-labeled images of {images.unlabeled.name}"
        )
    if onednn_enabled():
        lines.append("oneDNN is on")
    else:
        lines.append(
            "oneDNN is off; on x86 CPUs, set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported "
            "for faster training"
        )
    warning = batch_norm_warning(recipe, make_phases(recipe, images.examples))
    if warning:
        lines.append(warning)
    if recipe.augment == "keras_cv":
        lines.append("keras_cv augmentation is not reproducible: every run draws other images")
    if recipe.oversample:
        lines.append(f"with oversampling, an epoch has {plan.training.examples} images")
    if networks.teacher:
        lines.append(f"the teacher is {recipe.teacher}: {networks.teacher.note}")
    if recipe.layer_decay != 1 and not has_layer_groups(networks.model):
        lines.append(
            f"layer_decay {recipe.layer_decay} is not used: {recipe.model} has no groups of "
            "layers; EfficientNets have"
        )
    return lines
