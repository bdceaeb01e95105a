"""The loop: walks a recipe's phases with one traced step a phase, on any strategy.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (averaged weights, softmax, normalisation inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png`` and ``tensorboard/``; and ``checkpoints/`` until it is done.
Called again after it was cut, it goes on there, and ends with the weights of a run that was not.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from typing import Callable

import keras
import tensorflow as tf

from keras_effnet.api import create_model
from keras_effnet.preprocess import Preprocessing
from keras_effnet.weights import find as find_weights
from tpu_train import noise, optimizer, recipes
from tpu_train.curves import plot_curves
from tpu_train.data import training_batches
from tpu_train.devices import describe
from tpu_train.evaluate import make_evaluation
from tpu_train.phases import phases as make_phases
from tpu_train.progress import Progress
from tpu_train.saves import Saves, identity
from tpu_train.schedule import learning_rate
from tpu_train.sources import Source
from tpu_train.step import State, graph_rewriting, traced_steps

_FILES = ("model.keras", "labels.txt", "recipe.json", "metrics.jsonl", "curves.png", "tensorboard")
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class PhaseResult:
    """What one phase took and reached; accuracies are shares of 1 on the evaluation images."""

    number: int
    image_size: int
    steps: int
    seconds: float
    loss: float  # mean over the last host call's training steps
    accuracy: float  # of the averaged weights
    accuracy_raw: float


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    model_path: str
    curves_path: str
    labels_path: str
    classes: tuple[str, ...]
    phases: tuple[PhaseResult, ...]
    seconds: float

    @property
    def accuracy(self):
        """Of the exported model (averaged weights) on the evaluation images, as a share of 1."""
        return self.phases[-1].accuracy


class TrainingError(RuntimeError):
    """A run that cannot go on, with what to change."""


def check_run(recipe, training, evaluation, workdir, replicas, *, overwrite=False):
    """Raises ``ValueError`` for what cannot work, before anything slow; makes `workdir`."""
    recipes.check(recipe)
    find_weights(recipe.model, recipe.weights or None)
    batch = recipe.batch_size
    unit = replicas * (2 if max(recipe.mixup_first, recipe.mixup_last) > 0 else 1)
    if batch % unit:
        near = sorted({max(unit, batch // unit * unit), (batch // unit + 1) * unit})
        mixup = ", in pairs for mixup" if unit > replicas else ""
        raise ValueError(
            f"batch_size {batch} does not divide over {replicas} replicas{mixup}; try "
            f"{' or '.join(map(str, near))}"
        )
    if training.examples < 2 or len(training.classes) < 2:
        raise ValueError(
            f"{training.name} has {training.examples} images of {len(training.classes)} classes: "
            "two of each are the least to train on"
        )
    if training.classes != evaluation.classes:
        raise ValueError(f"{training.name} and {evaluation.name} do not have the same classes")
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, ".writable")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise ValueError(f"workdir {workdir!r} cannot be written to: {error.strerror}") from error
    taken = [name for name in _FILES if os.path.exists(os.path.join(workdir, name))]
    goes_on = "model.keras" not in taken and os.path.isdir(os.path.join(workdir, _CHECKPOINTS))
    if taken and not overwrite and not goes_on:
        raise ValueError(
            f"workdir {workdir!r} holds a run already ({', '.join(taken)}): choose another one, or "
            "give --overwrite to replace it"
        )


def train(
    recipe,
    training,
    evaluation,
    workdir,
    strategy,
    *,
    overwrite=False,
    stream=None,
    save_minutes=10.0,
    stop=lambda: False,
):
    """Trains from the recipe's weights, or on from the checkpoint in `workdir`: a :class:`Result`.

    `training` and `evaluation` are :class:`tpu_train.sources.Source`; `stream` is where progress goes
    (standard error). A checkpoint is written at the end of every phase, after `save_minutes`, and
    when `stop()` says so, which is asked after every host call (several workers save at the ends of
    phases alone: they would have to agree). Raises ``ValueError`` for what cannot work, before
    anything slow, :class:`TrainingError` when the loss is no number any more, and
    :class:`tpu_train.saves.StoppedError` after
    a stop.
    """
    workdir = os.fspath(workdir)
    replicas = strategy.num_replicas_in_sync
    check_run(recipe, training, evaluation, workdir, replicas, overwrite=overwrite)
    began = time.monotonic()
    is_chief = not getattr(strategy.cluster_resolver, "task_id", 0)  # of several workers
    output = (
        workdir
        if is_chief
        else os.path.join(workdir, f".worker{strategy.cluster_resolver.task_id}")
    )
    os.makedirs(output, exist_ok=True)
    saves = Saves(
        folder=os.path.join(workdir, _CHECKPOINTS),
        run=identity(recipe, training, evaluation),
        minutes=save_minutes if _workers(strategy) == 1 else math.inf,
        stop=stop if _workers(strategy) == 1 else lambda: False,
        writes=is_chief,
    )
    if overwrite and is_chief:
        _remove(saves.folder)
    begin = None if overwrite else saves.find()
    if begin is None:
        for name in _FILES:
            _remove(os.path.join(output, name))

    keras.utils.set_random_seed(recipe.seed)
    all_phases = make_phases(recipe, training.examples)
    network = _network(recipe, len(training.classes), classifier_activation=None)
    with strategy.scope():
        net, averaged = (
            noise.training_clone(network, sync_batch_norm=recipe.sync_batch_norm) for _ in range(2)
        )
        state = State.of(net, averaged, optimizer.OPTIMIZERS[recipe.optimizer])
    first_step, results = 0, []
    if begin is not None:
        first_step = begin.step
        results = [PhaseResult(**phase) for phase in begin.notes["phases"]]
        for variable, value in zip(state.variables, begin.values):
            variable.assign(value)
    evaluate = make_evaluation(
        strategy,
        {"averaged": averaged, "raw": net},
        evaluation,
        image_size=recipe.image_size_eval,
        batch_size=recipe.batch_size,
    )

    with (
        contextlib.closing(Progress(output, stream, first_step=first_step)) as progress,
        graph_rewriting(strategy),
    ):
        _write_recipe(os.path.join(output, "recipe.json"), recipe, all_phases, training)
        progress.say(
            f"{recipe.model}, {training.examples} training and {evaluation.examples} evaluation "
            f"images of {len(training.classes)} classes, {describe(strategy)}"
        )
        if begin is not None:
            progress.say(f"going on after step {first_step}, from {saves.folder}")
        run = _Run(recipe, all_phases, training, strategy, net, state, evaluate, progress, saves)
        for phase in all_phases[len(results) :]:
            results.append(_walk(run, phase, max(first_step, phase.first_step), results))
            progress.say(_line(results[-1], len(all_phases)))
            if phase is not all_phases[-1]:
                saves.at(phase.end_step, state, results, progress, phase_is_over=True)
    result = Result(
        model_path=os.path.join(output, "model.keras"),
        curves_path=os.path.join(output, "curves.png"),
        labels_path=os.path.join(output, "labels.txt"),
        classes=training.classes,
        phases=tuple(results),
        seconds=time.monotonic() - began,
    )
    _export(recipe, averaged, result)
    plot_curves(os.path.join(output, "metrics.jsonl"), result.curves_path)
    if is_chief:
        _remove(saves.folder)
    return result


def _network(recipe, classes, *, classifier_activation, image_size=None):
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[recipe.precision]
    if classifier_activation:  # what is exported computes in float32
        policy = "float32"
    keras.mixed_precision.set_global_policy(policy)
    try:
        with warnings.catch_warnings():  # of a new classifier: it is about to be trained
            warnings.filterwarnings("ignore", ".*the classifier of .* starts at random")
            network = create_model(
                recipe.model,
                weights=recipe.weights or None,  # also for the export: they say how to normalise
                classes=classes,
                input_shape=(image_size, image_size, 3),
                classifier_activation=classifier_activation,
                drop_path_rate=recipe.drop_path_rate,
                preprocessing=Preprocessing(recipe.image_size_eval, None, "bilinear"),
            )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    if recipe.zero_head:
        head = network.layers[-1]
        head.set_weights([w * 0 for w in head.get_weights()])
    return network


@dataclass(frozen=True)
class _Run:
    """What the phases of a run share."""

    recipe: recipes.Recipe
    phases: tuple
    training: Source
    strategy: tf.distribute.Strategy
    net: keras.Model
    state: State
    evaluate: Callable
    progress: Progress
    saves: Saves


def _walk(run, phase, first_step, results):
    """One phase, or the rest of it from `first_step`: its batches, its traced step, its evaluation.

    `results` are those of the phases before.
    """
    recipe, strategy = run.recipe, run.strategy
    began = time.monotonic()
    run.progress.begin(phase, len(run.phases), recipe.batch_size, first_step=first_step)
    noise.set_dropout(run.net, phase.dropout_rate)

    def rate(step):
        return learning_rate(
            recipe,
            step,
            steps_per_epoch=run.training.examples / recipe.batch_size,
            total_steps=run.phases[-1].end_step,
        )

    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                run.training,
                recipe,
                phase,
                first_step=first_step,
                end_step=phase.end_step,
                replicas=strategy.num_replicas_in_sync,
                host=context.input_pipeline_id,
                hosts=context.num_input_pipelines,
            )
        )
    )
    run_steps = traced_steps(
        recipe, phase, len(run.training.classes), strategy, run.net, run.state, rate, batches
    )
    step = first_step
    while step < phase.end_step:
        steps = min(recipe.steps_per_loop, phase.end_step - step)
        started = time.monotonic()
        loss, correct, norm = (
            run_steps(batches, tf.constant(step, tf.int64), tf.constant(steps, tf.int64)) / steps
        ).numpy()
        step += steps
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} after step {step - 1} (phase {phase.number}, "
                f"{phase.image_size} px): lower --learning_rate (now {recipe.learning_rate}), set "
                "--clip_norm=1, or lengthen --warmup_epochs"
            )
        record = {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "learning_rate": float(rate(tf.constant(step - 1))),
            "loss": float(loss),
            "accuracy": float(correct) / recipe.batch_size,
            "gradient_norm": float(norm),
            "images_per_second": steps * recipe.batch_size / (time.monotonic() - started),
        }
        run.progress.step(record, steps * recipe.batch_size)
        if step < phase.end_step:
            run.saves.at(step, run.state, results, run.progress, phase_is_over=False)

    reached = run.evaluate()
    result = PhaseResult(
        number=phase.number,
        image_size=phase.image_size,
        steps=phase.end_step - phase.first_step,
        seconds=time.monotonic() - began,
        loss=record["loss"],
        accuracy=reached["averaged"],
        accuracy_raw=reached["raw"],
    )
    run.progress.end(
        {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "evaluation_accuracy": result.accuracy,
            "evaluation_accuracy_raw": result.accuracy_raw,
            "seconds": result.seconds,
        }
    )
    return result


def _workers(strategy):
    if strategy.cluster_resolver is None:
        return 1
    return max(1, len(strategy.cluster_resolver.cluster_spec().as_dict().get("worker", ())))


def _line(r, phases):
    return (
        f"phase {r.number}/{phases}, {r.image_size} px: {r.steps} steps in {r.seconds:.0f} s, "
        f"held-out accuracy {r.accuracy:.2%} (raw weights {r.accuracy_raw:.2%})"
    )


def _write_recipe(path, recipe, all_phases, training):
    record = {
        "recipe": dataclasses.asdict(recipe),
        "phases": [dataclasses.asdict(p) for p in all_phases],
        "training_images": training.examples,
        "skipped_files": list(training.skipped),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    with open(path, "w") as file:
        json.dump(record, file, indent=1)


def _export(recipe, averaged, result):
    """The averaged weights in a model of stock layers: any Keras loads it."""
    exported = _network(
        recipe,
        len(result.classes),
        classifier_activation="softmax",
        image_size=recipe.image_size_eval,
    )
    exported.set_weights(averaged.get_weights())
    partial = result.model_path.replace(".keras", ".partial.keras")
    exported.save(partial)
    os.replace(partial, result.model_path)
    with open(result.labels_path, "w") as file:
        file.writelines(f"{name}\n" for name in result.classes)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
