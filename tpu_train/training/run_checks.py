"""Checks of a training run before anything slow: data, recipe and work directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tpu_train.checkpointing import workdir as workdirs
from tpu_train.folder_lock import locked
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.targets import class_weights, images_of_epoch
from tpu_train.recipes.evaluation_settings import check_eval_epochs, setting_by_evaluations
from tpu_train.recipes.phases import batch_size_error, make_phases
from tpu_train.recipes.schema import Recipe, check, check_unlabeled
from tpu_train.training import model_factory, optimizers, run_record


def check_run(
    recipe: Recipe,
    training: ImageSource,
    evaluation: ImageSource,
    workdir: str,
    strategy: tf.distribute.Strategy,
    overwrite: bool,
    eval_epochs: float,
) -> None:
    """Raises ``ValueError`` for a run that cannot work, before anything slow; creates `workdir`.

    `training` has every image once.
    """
    training = images_of_epoch(training, recipe)
    check_settings(recipe, training, strategy.num_replicas_in_sync)
    check_unlabeled(recipe, training.unlabeled.name if training.unlabeled else "")
    if training.classes != evaluation.classes:
        raise ValueError(f"{training.name} and {evaluation.name} do not have the same classes")
    if not overwrite:
        run_record.check_not_complete(recipe, training, evaluation, workdir, eval_epochs)
    workdirs.create(workdir)


@contextlib.contextmanager
def claimed(workdir: str, *, writes: bool, overwrite: bool) -> Iterator[None]:
    """Keeps other processes from writing a run to an existing `workdir` within the block.

    Only the worker that `writes` locks it: the others of its run use the folder, too. Raises
    ``ValueError`` if another run is written there, or a finished one would be replaced.
    """
    with locked(workdir) if writes else contextlib.nullcontext():
        if not overwrite:
            workdirs.check_not_finished(workdir)
        yield


def check_settings(recipe: Recipe, training: ImageSource, replicas: int) -> None:
    """Raises ``ValueError`` for a recipe that labeled images cannot be trained with."""
    check(recipe)
    optimizers.check(recipe.optimizer)
    class_weights(recipe.class_weights, training)
    model_factory.check(recipe)
    for phase in make_phases(recipe, training.examples):
        error = batch_size_error(recipe, phase, replicas)
        if error:
            raise ValueError(error)
    if training.examples < 2 or len(training.classes) < 2:
        raise ValueError(
            f"{training.name} has {training.examples} images of {len(training.classes)} classes: "
            "training needs at least two of each"
        )
    if recipe.unlabeled_ratio and training.is_multi_label:
        raise ValueError(
            f"{training.name} has images of several labels, and pseudo-labels have one each: train "
            "on the labeled images alone, without --unlabeled"
        )


def check_evaluations(recipe: Recipe, evaluation: ImageSource, eval_epochs: float) -> None:
    """Raises ``ValueError`` for evaluations that a setting needs and the run would not have."""
    setting = setting_by_evaluations(recipe)
    if setting and not evaluation.examples:
        raise ValueError(f"{setting} needs evaluation images: give --holdout=0.2")
    check_eval_epochs(recipe, eval_epochs)
