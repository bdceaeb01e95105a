"""One training run, from top to bottom: check, build, restore, train, export.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (EMA weights, class scores, normalization inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png``, ``tensorboard/``, ``evaluation.html`` with its tables, and
``model_card.md``; ``best.keras`` if an earlier evaluation was better (with early stopping, that one
is ``model.keras``); and ``checkpoints/`` until it has finished. Called again after an interruption,
it resumes and ends with the weights of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import keras
import tensorflow as tf

from keras_effnet.finetuning import has_layer_groups
from keras_effnet.label_file import write_labels
from keras_effnet.model_card.output_files import RUN_CARD
from tpu_train.callbacks.records import Callback, end_reported
from tpu_train.checkpointing import workdir as workdirs
from tpu_train.checkpointing.manager import CheckpointManager
from tpu_train.checkpointing.run_identity import onednn_enabled
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.targets import class_weights, images_of_epoch
from tpu_train.recipes.evaluation_settings import setting_by_evaluations
from tpu_train.recipes.phases import batch_norm_warning, make_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.remote_files import is_remote
from tpu_train.training import distributed_layers, model_factory, recovery, run_record
from tpu_train.training.distribution import describe, make_gather, runs_on_cpu
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
from tpu_train.training.step import TrainState, graph_rewriting
from tpu_train.training.teacher import make_teacher

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
    replicas = strategy.num_replicas_in_sync
    images, training = training, images_of_epoch(training, recipe)
    check_run(recipe, training, evaluation, workdir, replicas, overwrite=overwrite)
    is_chief = strategy.extended.should_checkpoint
    with claimed(workdir, writes=is_chief, overwrite=overwrite):
        # Build: the trained model, a clone that holds its EMA weights, and the optimizer's slots.
        record = None if overwrite else run_record.read_record(workdir)
        planned = run_record.plan_epochs(record, recipe.epochs)
        phases = run_record.plan_phases(recipe, training.examples, planned)
        check_profile(profile, phases[-1].end_step)
        classes = len(training.classes)
        teacher = (
            make_teacher(recipe.teacher, training.classes, strategy) if recipe.teacher else None
        )
        model, ema_model, state = build_training(recipe, phases, classes, strategy)
        rate_factor = None
        if recipe.learning_rate_schedule == "plateau":
            with strategy.scope():
                rate_factor = tf.Variable(1.0, trainable=False)

        callback = callback if callback and is_chief else Callback()
        files = workdirs.Workdir(workdir, "" if is_chief else _worker_name(strategy))
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(files))

            # Restore the latest checkpoint, if there is one.
            identity = run_record.identify(recipe, training, evaluation, planned)
            if setting_by_evaluations(recipe):
                identity["eval_epochs"] = eval_epochs
            checkpoints = CheckpointManager(
                files.checkpoints,
                identity,
                save_minutes,
                writes=is_chief,
                gather=make_gather(strategy),
                after_save=lambda: _after_save(files, checkpoints, callback),
            )
            messages = []
            restored = None
            if not overwrite:
                restored = checkpoints.restore_latest(state.variables, messages.append)
            elif is_chief:
                files.remove(workdirs.CHECKPOINTS)
            history = TrainingHistory.from_json(restored.extra_state) if restored else None
            run_record.check_extension(planned, phases, history)
            files.prepare(resume=restored is not None)

            first_step = restored.step if restored else 0
            # Before the first file: a callback that cannot start leaves nothing to clean up.
            callback(
                "run_start",
                first_step,
                {
                    "workdir": workdir if is_remote(workdir) else os.path.abspath(workdir),
                    "recipe": dataclasses.asdict(recipe),
                    "phases": [dataclasses.asdict(phase) for phase in phases],
                    "classes": list(training.classes),
                    "training_images": images.examples,
                    "evaluation_images": evaluation.examples,
                    "devices": describe(strategy),
                    "resumed": restored is not None,
                },
            )

            # Report what is trained.
            metrics = MetricsWriter(
                files.local(""), stream, first_step=first_step, callback=callback
            )
            stack.enter_context(contextlib.closing(metrics))
            profiler = Profiler(metrics.events, profile)
            stack.enter_context(contextlib.closing(profiler))
            messages += _describe_run(recipe, images, evaluation, strategy)
            if recipe.oversample:
                messages.append(f"with oversampling, an epoch has {training.examples} images")
            if teacher:
                messages.append(f"the teacher is {recipe.teacher}: {teacher.note}")
            if recipe.layer_decay != 1 and not has_layer_groups(model):
                messages.append(
                    f"layer_decay {recipe.layer_decay} is not used: {recipe.model} has no groups "
                    "of layers; EfficientNets have"
                )
            if restored:
                messages.append(f"resuming after step {restored.step}, from {checkpoints.folder}")
            for message in messages:
                metrics.log(message)
            path = files.local("recipe.json")
            run_record.write_record(path, recipe, phases, images, evaluation, planned, identity)
            stack.enter_context(end_reported(callback, lambda: metrics.step))
            stack.enter_context(reporting_lost_workers(strategy, checkpoints.folder))

            # Train.
            stack.enter_context(graph_rewriting(strategy))
            export = make_export(recipe, classes, ema_model)
            evaluate = None
            if evaluation.examples:
                models = {"ema": ema_model, "non_ema": model}
                evaluate = make_evaluation(strategy, models, evaluation, recipe)

            def keep_best():
                export(files.local(workdirs.BEST))
                files.publish()

            run = RunContext(
                recipe=recipe,
                phases=phases,
                training=training,
                strategy=strategy,
                model=model,
                state=state,
                class_weights=class_weights(recipe.class_weights, training),
                teacher=teacher,
                evaluate=evaluate,
                eval_epochs=eval_epochs,
                rate_factor=rate_factor,
                metrics=metrics,
                profiler=profiler,
                checkpoints=checkpoints,
                on_nan=on_nan,
                stop=stop,
                on_improvement=keep_best,
            )
            history = train_phases(run, (restored.step, history) if restored else None)

            # Export.
            write_labels(files.local("labels.txt"), training.classes)
            plot_curves(files.local("metrics.jsonl"), files.local("curves.png"))
            last = history.evaluations[-1] if history.evaluations else None
            best = find_best(history.evaluations, metric_of(recipe))
            has_best = os.path.exists(files.local(workdirs.BEST))
            exported = best if recipe.early_stopping_patience and has_best else last
            recovery.check_exported(recipe, exported, best)
            if exported is last:
                export(files.local("model.keras"))
            else:
                take_best_model(files, ema_model)
            sources = {"evaluation": evaluation, "test": test} if pages else {}
            evaluations = write_reports(recipe, sources, files, strategy, ema_model)
            result = Result(
                model_path=os.path.join(files.path, "model.keras"),
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
            if last is best:  # else it is needed to finish the run again, if it is killed here
                files.remove(workdirs.BEST)
        if is_chief and not keep_checkpoints:
            files.remove(workdirs.CHECKPOINTS)  # last: until here the run could be resumed
        return result


def export_stopped(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    workdir: str | os.PathLike[str],
    strategy: tf.distribute.Strategy,
) -> tuple[str, int]:
    """Writes model.keras and labels.txt from the latest checkpoint of a run: (path, its step).

    The run can be resumed afterwards. Raises ``ValueError`` if `workdir` has no checkpoint of this
    run.
    """
    workdir, training = os.fspath(workdir), images_of_epoch(training, recipe)
    planned = run_record.plan_epochs(run_record.read_record(workdir), recipe.epochs)
    phases = run_record.plan_phases(recipe, training.examples, planned)
    classes = len(training.classes)
    files = workdirs.Workdir(workdir)
    with contextlib.closing(files):
        checkpoints = CheckpointManager(
            files.checkpoints,
            run_record.identify(recipe, training, evaluation, planned),
            0.0,
            writes=False,
            gather=make_gather(strategy),
        )
        _, ema_model, state = build_training(recipe, phases, classes, strategy)
        restored = checkpoints.restore_latest(state.variables)
        if restored is None:
            raise ValueError(
                f"{workdir} has no checkpoint to export: train first, without --export"
            )
        write_labels(files.local("labels.txt"), training.classes)
        make_export(recipe, classes, ema_model)(files.local("model.keras"))
    return os.path.join(workdir, "model.keras"), restored.step


def build_training(recipe, phases, classes, strategy):
    """(the trained model, a clone that holds its EMA weights, :class:`TrainState` of both)."""
    keras.utils.set_random_seed(recipe.seed)
    network = model_factory.training_network(recipe, classes)
    with strategy.scope():
        model = distributed_layers.training_clone(
            network,
            batch_norm_group_size=recipe.batch_norm_group_size,
            on_cpu=runs_on_cpu(strategy),
        )
        ema_model = distributed_layers.training_clone(network)
        return model, ema_model, TrainState.create(model, ema_model, recipe, phases)


def _after_save(files, checkpoints, callback):
    files.publish()
    callback("checkpoint", checkpoints.latest_step, {"folder": checkpoints.folder})


def _worker_name(strategy):
    resolver = strategy.cluster_resolver
    return f"{resolver.task_type}{resolver.task_id}"


def _describe_run(recipe, training, evaluation, strategy):
    """The first log lines of a run."""
    lines = [
        f"{recipe.model}, {training.examples} training and {evaluation.examples} evaluation "
        f"images of {len(training.classes)} classes, {describe(strategy)}"
    ]
    if training.unlabeled is not None:
        lines.append(
            f"{training.unlabeled.examples} pseudo-labeled images of {training.unlabeled.name}"
        )
    if onednn_enabled():
        lines.append("oneDNN is on")
    else:
        lines.append(
            "oneDNN is off; on x86 CPUs, set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported "
            "for faster training"
        )
    warning = batch_norm_warning(recipe, make_phases(recipe, training.examples))
    if warning:
        lines.append(warning)
    if recipe.augment == "keras_cv":
        lines.append("keras_cv augmentation is not reproducible: every run draws other images")
    return lines
