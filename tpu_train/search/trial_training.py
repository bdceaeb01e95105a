"""The training of a trial: the trainer's own run, in a folder of the trial, which it can resume."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from keras_effnet.variants import Variant
from tpu_train.callbacks.records import Callback, CallbackError
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.schema import Recipe
from tpu_train.search.settings import trial_recipe
from tpu_train.search.step_time import StepTimer
from tpu_train.search.trial_folder import LOG, can_resume, write_network
from tpu_train.search.trial_record import TrialFailedError
from tpu_train.training.graph_memory import released_graphs
from tpu_train.training.recovery import TrainingError
from tpu_train.training.run import train


@dataclass(frozen=True)
class TrialTrainer:
    """What the trainings of all trials of a worker share."""

    recipe: Recipe
    base: Variant  # of the search space, whose images have the recipe's sizes
    images: ImageSource
    minival: ImageSource
    strategy: tf.distribute.Strategy
    timer: StepTimer
    save_minutes: float
    stop: Callable[[], str]  # the reason to stop now, or ""

    @released_graphs()
    def measure(self, folder: str, variant: Variant) -> float:
        """The step time of a network, in the timer's unit; its file is in `folder`.

        Raises :class:`~tpu_train.search.trial_record.TrialFailedError` if it has none.
        """
        recipe = trial_recipe(self.recipe, self.base, variant, write_network(folder, variant))
        try:
            return self.timer.measure(recipe)
        except tf.errors.ResourceExhaustedError as error:
            reason = error.message.splitlines()[0]
            raise TrialFailedError(
                f"out of memory in the measurement of its step: {reason}"
            ) from error

    @released_graphs()
    def train(self, folder: str, variant: Variant, continues: Callable[[int, float], bool]) -> bool:
        """Trains in `folder`, or resumes from the checkpoint there; False if it ended early.

        `continues` is called after every phase with its number, from 1, and the accuracy on the
        minival, in [0, 1]; if it returns False, the training ends. Raises
        :class:`~tpu_train.checkpointing.preemption.StoppedError` after a stop, with a checkpoint,
        and :class:`~tpu_train.search.trial_record.TrialFailedError` if the training fails.
        """
        recipe = trial_recipe(self.recipe, self.base, variant, write_network(folder, variant))
        accuracies, ended = [], []

        def observe(record):
            if record["event"] == "evaluation":
                accuracies.append(record["evaluation_accuracy_ema"])
            elif record["event"] == "phase_end" and not continues(record["phase"], accuracies[-1]):
                ended.append("pruned")

        try:
            with open(os.path.join(folder, LOG), "a", encoding="utf-8") as log:
                train(
                    recipe,
                    self.images,
                    self.minival,
                    folder,
                    self.strategy,
                    overwrite=not can_resume(folder, recipe),
                    stream=log,
                    save_minutes=self.save_minutes,
                    keep_checkpoints=True,  # until the result is recorded
                    stop=lambda: ended[0] if ended else self.stop(),
                    callback=Callback(observe, "of the search"),
                    pages=False,
                )
        except StoppedError:
            if not ended:
                raise
        except CallbackError as error:
            raise error.__cause__ from error
        except TrainingError as error:
            raise TrialFailedError(str(error)) from error
        return not ended
