"""The loop: walks a recipe's phases with one traced step a phase, on any strategy.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (averaged weights, softmax, normalisation inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png`` and ``tensorboard/``; and ``checkpoints/`` until it is done.
Called again after it was cut, it goes on there, and ends with the weights of a run that was not.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tpu_train import networks, noise, optimizer
from tpu_train.curves import plot_curves
from tpu_train.devices import describe
from tpu_train.evaluate import make_evaluation
from tpu_train.loop import ON_NAN, PhaseResult, Run, TrainingError, checked_phase, walk
from tpu_train.phases import phases as make_phases
from tpu_train.progress import Progress
from tpu_train.recipe import check
from tpu_train.saves import Saves, everyone, identity
from tpu_train.step import State, graph_rewriting

__all__ = ["PhaseResult", "Result", "TrainingError", "check_run", "train"]

_BEST = "best.keras"
_FILES = (
    *("model.keras", _BEST, "labels.txt", "recipe.json", "metrics.jsonl", "curves.png"),
    "tensorboard",
)
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    model_path: str
    curves_path: str
    labels_path: str
    classes: tuple[str, ...]
    phases: tuple[PhaseResult, ...]
    evaluations: tuple[dict, ...]  # {"step", "averaged", "raw"}: accuracies as shares of 1
    seconds: float

    @property
    def accuracy(self):
        """Of the exported model (averaged weights) on the evaluation images, as a share of 1."""
        return self.phases[-1].accuracy

    @property
    def best(self):
        """The evaluation with the highest accuracy of the averaged weights."""
        return max(self.evaluations, key=lambda e: (e["averaged"], e["step"]))


def check_run(recipe, training, evaluation, workdir, replicas, *, overwrite=False):
    """Raises ``ValueError`` for what cannot work, before anything slow; makes `workdir`."""
    check(recipe)
    optimizer.check(recipe.optimizer)
    networks.check(recipe)
    for phase in make_phases(recipe, training.examples):
        why = checked_phase(recipe, phase, replicas)
        if why:
            raise ValueError(why)
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
    eval_epochs=0.0,
    on_nan="stop",
    stop=lambda: "",
):
    """Trains from the recipe's weights, or on from the checkpoint in `workdir`: a :class:`Result`.

    `training` and `evaluation` are :class:`tpu_train.sources.Source`; `stream` is where progress
    goes (standard error). A checkpoint is written at the end of every phase, after `save_minutes`,
    at the best evaluation so far, and when `stop()` says why, which is asked after every host call.
    Evaluates at the ends of phases, and every `eval_epochs`. `on_nan` "skip" goes back to the last
    checkpoint when the loss is no number, and leaves the steps out that made it so.

    Raises ``ValueError`` for what cannot work, before anything slow, :class:`TrainingError` when
    the run cannot go on, and :class:`tpu_train.saves.StoppedError` after a stop.
    """
    workdir = os.fspath(workdir)
    replicas = strategy.num_replicas_in_sync
    if on_nan not in ON_NAN:
        raise ValueError(f"on_nan {on_nan!r} is not known: give {' or '.join(ON_NAN)}")
    if eval_epochs < 0:
        raise ValueError(f"eval_epochs {eval_epochs} cannot work: give 0 or more")
    check_run(recipe, training, evaluation, workdir, replicas, overwrite=overwrite)
    began = time.monotonic()
    worker = getattr(strategy.cluster_resolver, "task_id", 0) or 0
    output = os.path.join(workdir, f".worker{worker}") if worker else workdir
    os.makedirs(output, exist_ok=True)
    saves = Saves(
        folder=os.path.join(workdir, _CHECKPOINTS),
        run=identity(recipe, training, evaluation),
        minutes=save_minutes,
        stop=stop,
        writes=not worker,
        everyone=everyone(strategy),
    )
    if overwrite and not worker:
        _remove(saves.folder)

    keras.utils.set_random_seed(recipe.seed)
    all_phases = make_phases(recipe, training.examples)
    network = networks.training_network(recipe, len(training.classes))
    with strategy.scope():
        net = noise.training_clone(
            network, batch_norm_images=recipe.batch_norm_images, frozen=recipe.frozen
        )
        averaged = noise.training_clone(network)
        state = State.of(net, averaged, recipe)

    with contextlib.ExitStack() as stack:
        said = []
        begin = None if overwrite else saves.find(said.append)
        if begin is None:
            for name in _FILES:
                _remove(os.path.join(output, name))
        progress = stack.enter_context(
            contextlib.closing(Progress(output, stream, first_step=begin.step if begin else 0))
        )
        stack.enter_context(graph_rewriting(strategy))
        for line in said:
            progress.say(line)
        _write_recipe(os.path.join(output, "recipe.json"), recipe, all_phases, training)
        progress.say(
            f"{recipe.model}, {training.examples} training and {evaluation.examples} evaluation "
            f"images of {len(training.classes)} classes, {describe(strategy)}"
        )
        if recipe.augment == "keras_cv":
            progress.say("keras_cv draws its augmentation anew in every run: none equals another")
        if begin is not None:
            progress.say(f"going on after step {begin.step}, from {saves.folder}")
        export = _exporter(recipe, len(training.classes), averaged)
        results = walk(
            Run(
                recipe=recipe,
                phases=all_phases,
                training=training,
                strategy=strategy,
                net=net,
                state=state,
                class_weights=_class_weights(training) if recipe.balance_classes else None,
                evaluate=make_evaluation(
                    strategy, {"averaged": averaged, "raw": net}, evaluation, recipe
                ),
                eval_epochs=eval_epochs,
                progress=progress,
                saves=saves,
                on_nan=on_nan,
                improved=lambda: export(os.path.join(output, _BEST)),
            ),
            begin,
        )
    result = Result(
        model_path=os.path.join(output, "model.keras"),
        curves_path=os.path.join(output, "curves.png"),
        labels_path=os.path.join(output, "labels.txt"),
        classes=training.classes,
        phases=tuple(results),
        evaluations=tuple(saves.evaluations),
        seconds=time.monotonic() - began,
    )
    with open(result.labels_path, "w") as file:
        file.writelines(f"{name}\n" for name in result.classes)
    plot_curves(os.path.join(output, "metrics.jsonl"), result.curves_path)
    export(result.model_path)
    if result.accuracy >= result.best["averaged"]:  # the best is the last
        _remove(os.path.join(output, _BEST))
    if not worker:
        _remove(saves.folder)
    return result


def _class_weights(source):
    """float32 (classes,): a class's weight is the inverse of its share, the images' mean is 1."""
    labels = source.labels[source.labels >= 0]
    counts = np.bincount(labels, minlength=len(source.classes))
    return (len(labels) / (len(counts) * np.maximum(counts, 1))).astype(np.float32)


def _exporter(recipe, classes, averaged):
    """A function of a path that writes the averaged weights there, in a model of stock layers."""
    exported = []  # built once

    def export(path):
        weights = averaged.get_weights()
        if exported:
            exported[0].set_weights(weights)
        else:
            exported.append(networks.exported_network(recipe, classes, weights))
        partial = path.replace(".keras", ".partial.keras")
        exported[0].save(partial)
        os.replace(partial, path)

    return export


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


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
