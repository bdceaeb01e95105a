"""The loop: walks a recipe's phases with one traced step a phase, on any strategy.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (averaged weights, softmax, normalisation inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png`` and ``tensorboard/``; ``best.keras`` where an earlier evaluation
was better; and ``checkpoints/`` until it is done. Called again
after it was cut, it goes on there, and ends with the weights of a run that was not.
"""

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tpu_train.checkpointing import workdir as workdirs
from tpu_train.checkpointing.manager import Saves, everyone, identity
from tpu_train.recipes.phases import batch_size_error, make_phases
from tpu_train.recipes.schema import check
from tpu_train.training import distributed_layers, model_factory, optimizers
from tpu_train.training.distribution import describe
from tpu_train.training.evaluation import make_evaluation
from tpu_train.training.loop import ON_NAN, PhaseResult, Run, TrainingError, walk
from tpu_train.training.metrics_writer import Progress
from tpu_train.training.plots import plot_curves
from tpu_train.training.step import State, graph_rewriting

__all__ = ["PhaseResult", "Result", "TrainingError", "check_run", "train"]


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    model_path: str
    best_path: str  # where an earlier evaluation was better; no file otherwise
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
    optimizers.check(recipe.optimizer)
    model_factory.check(recipe)
    for phase in make_phases(recipe, training.examples):
        why = batch_size_error(recipe, phase, replicas)
        if why:
            raise ValueError(why)
    if training.examples < 2 or len(training.classes) < 2:
        raise ValueError(
            f"{training.name} has {training.examples} images of {len(training.classes)} classes: "
            "two of each are the least to train on"
        )
    if training.classes != evaluation.classes:
        raise ValueError(f"{training.name} and {evaluation.name} do not have the same classes")
    workdirs.check(workdir, overwrite=overwrite)


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
    keep_checkpoints=False,
    stop=lambda: "",
):
    """Trains from the recipe's weights, or on from the checkpoint in `workdir`: a :class:`Result`.

    `training` and `evaluation` are :class:`tpu_train.input_pipeline.image_source.ImageSource`; `stream` is where progress
    goes (standard error). A checkpoint is written at the end of every phase, after `save_minutes`,
    at the best evaluation so far, and when `stop()` says why, which is asked after every host call.
    Evaluates at the ends of phases, and every `eval_epochs`. `on_nan` "skip" goes back to the last
    checkpoint when the loss is no number, and leaves the steps out that made it so.
    `keep_checkpoints` keeps them when the run is through.

    Raises ``ValueError`` for what cannot work, before anything slow, :class:`TrainingError` when
    the run cannot go on, and :class:`tpu_train.checkpointing.manager.StoppedError` after a stop.
    """
    workdir = os.fspath(workdir)
    replicas = strategy.num_replicas_in_sync
    if on_nan not in ON_NAN:
        raise ValueError(f"on_nan {on_nan!r} is not known: give {' or '.join(ON_NAN)}")
    if eval_epochs < 0:
        raise ValueError(f"eval_epochs {eval_epochs} cannot work: give 0 or more")
    check_run(recipe, training, evaluation, workdir, replicas, overwrite=overwrite)
    began = time.monotonic()
    writes = strategy.extended.should_checkpoint  # all but one of several workers do not
    files = workdirs.Workdir(workdir, "" if writes else _worker(strategy))
    saves = Saves(
        folder=files.checkpoints,
        run=identity(recipe, training, evaluation),
        minutes=save_minutes,
        stop=stop,
        writes=writes,
        everyone=everyone(strategy),
        saved=files.publish,
    )
    if overwrite and writes:
        files.remove(workdirs.CHECKPOINTS)

    keras.utils.set_random_seed(recipe.seed)
    all_phases = make_phases(recipe, training.examples)
    network = model_factory.training_network(recipe, len(training.classes))
    with strategy.scope():
        net = distributed_layers.training_clone(
            network, batch_norm_group_size=recipe.batch_norm_group_size, freeze=recipe.freeze
        )
        averaged = distributed_layers.training_clone(network)
        state = State.of(net, averaged, recipe)

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(files))
        said = []
        begin = None if overwrite else saves.find(said.append)
        files.begin(anew=begin is None)
        progress = stack.enter_context(
            contextlib.closing(
                Progress(files.local(""), stream, first_step=begin.step if begin else 0)
            )
        )
        stack.enter_context(graph_rewriting(strategy))
        for line in said:
            progress.say(line)
        _write_recipe(files.local("recipe.json"), recipe, all_phases, training)
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
                class_weights=_class_weights(training)
                if recipe.class_weights == "balanced"
                else None,
                evaluate=make_evaluation(
                    strategy, {"averaged": averaged, "raw": net}, evaluation, recipe
                ),
                eval_epochs=eval_epochs,
                progress=progress,
                saves=saves,
                on_nan=on_nan,
                improved=lambda: export(files.local(workdirs.BEST)),
            ),
            begin,
        )
        with open(files.local("labels.txt"), "w") as file:
            file.writelines(f"{name}\n" for name in training.classes)
        plot_curves(files.local("metrics.jsonl"), files.local("curves.png"))
        export(files.local("model.keras"))
        result = Result(
            model_path=os.path.join(files.path, "model.keras"),
            best_path=os.path.join(files.path, workdirs.BEST),
            curves_path=os.path.join(files.path, "curves.png"),
            labels_path=os.path.join(files.path, "labels.txt"),
            classes=training.classes,
            phases=tuple(results),
            evaluations=tuple(saves.evaluations),
            seconds=time.monotonic() - began,
        )
        if result.accuracy >= result.best["averaged"]:  # the best is the last
            files.remove(workdirs.BEST)
    if writes and not keep_checkpoints:
        files.remove(workdirs.CHECKPOINTS)  # only now: all else has arrived
    return result


def _worker(strategy):
    resolver = strategy.cluster_resolver
    return f"{resolver.task_type}{resolver.task_id}"


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
            exported.append(model_factory.exported_network(recipe, classes, weights))
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
