"""What a run does, and what it trains: settings, images, phases and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.targets import images_of_epoch
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe
from tpu_train.training import distributed_layers, model_factory, run_record
from tpu_train.training.distribution import runs_on_cpu
from tpu_train.training.step import TrainState
from tpu_train.training.teacher import Teacher, make_teacher


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What a run does: settings, images and phases."""

    recipe: Recipe
    images: ImageSource  # every training image once
    training: ImageSource  # those of an epoch: oversampling repeats some
    evaluation: ImageSource
    planned_epochs: Sequence[float]  # of the run and of its extensions
    phases: tuple[Phase, ...]
    identity: Mapping  # what must be equal for the run to resume

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.training.classes)


@dataclass(frozen=True, eq=False)
class Networks:
    """The trained network, all that is trained with it, and its teacher."""

    model: keras.Model
    ema_model: keras.Model  # a clone that holds the EMA weights
    state: TrainState
    teacher: Teacher | None
    rate_factor: tf.Variable | None  # see RunContext


def make_plan(
    recipe: Recipe,
    images: ImageSource,
    evaluation: ImageSource,
    record: Mapping | None,
    eval_epochs: float | None = None,
) -> RunPlan:
    """The :class:`RunPlan` of a run; `record` is the recipe.json that its folder has, or None.

    Without `eval_epochs`, a run with any number of epochs between evaluations is the same run.
    """
    training = images_of_epoch(images, recipe)
    planned = run_record.plan_epochs(record, recipe.epochs)
    return RunPlan(
        recipe=recipe,
        images=images,
        training=training,
        evaluation=evaluation,
        planned_epochs=planned,
        phases=run_record.plan_phases(recipe, training.examples, planned),
        identity=run_record.identify(recipe, training, evaluation, planned, eval_epochs),
    )


def build_networks(plan: RunPlan, strategy: tf.distribute.Strategy) -> Networks:
    """The :class:`Networks` of a run, with their initial weights."""
    recipe, teacher = plan.recipe, None
    if recipe.teacher:
        teacher = make_teacher(recipe.teacher, plan.training.classes, strategy)
    model, ema_model, state = build_training(recipe, plan.phases, plan.classes, strategy)
    rate_factor = None
    if recipe.learning_rate_schedule == "plateau":
        with strategy.scope():
            rate_factor = tf.Variable(1.0, trainable=False)
    return Networks(model, ema_model, state, teacher, rate_factor)


def build_training(
    recipe: Recipe, phases: Sequence[Phase], classes: int, strategy: tf.distribute.Strategy
) -> tuple[keras.Model, keras.Model, TrainState]:
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
