"""The training of a trial: the trainer's own run, in a folder of the trial, which it can resume."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_effnet.variant_file import write_variant
from keras_effnet.variants import Variant
from tpu_train.callbacks.records import Callback, CallbackError
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.schema import Recipe
from tpu_train.training.run import train

NETWORK, LOG = "network.json", "train.log"
_KEPT = (NETWORK, LOG, "recipe.json", "metrics.jsonl")  # of a finished trial


@dataclass(frozen=True)
class TrialTrainer:
    """What the trainings of all trials of a worker share."""

    recipe: Recipe
    images: ImageSource
    minival: ImageSource
    strategy: tf.distribute.Strategy
    save_minutes: float
    stop: Callable[[], str]  # the reason to stop now, or ""

    def recipe_of(self, folder: str, variant: Variant) -> Recipe:
        """The recipe of a trial; writes the network, which it names, to the trial's folder."""
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(os.path.abspath(folder), NETWORK)
        if not os.path.exists(path):
            write_variant(path, variant)
        return dataclasses.replace(self.recipe, model=path)

    def train(self, folder: str, variant: Variant, continues: Callable[[int, float], bool]) -> bool:
        """Trains in `folder`, or resumes from the checkpoint there; False if it ended early.

        `continues` is called after every phase with its number, from 1, and the accuracy on the
        minival, in [0, 1]; if it returns False, the training ends. Raises
        :class:`~tpu_train.checkpointing.preemption.StoppedError` after a stop, with a checkpoint,
        and :class:`~tpu_train.training.run.TrainingError` if the training fails.
        """
        recipe = self.recipe_of(folder, variant)
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
                    overwrite=_has_moved(folder, recipe),
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
        finally:
            keras.backend.clear_session()
        return not ended


def remove_checkpoints(folder: str) -> None:
    """Leaves of a finished trial its network, log, recipe and metrics."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif name not in _KEPT and not name.startswith("."):
            os.remove(path)


def _has_moved(folder, recipe):
    """Whether the run in `folder` was begun in another folder, which its identity contains."""
    try:
        with open(os.path.join(folder, "recipe.json"), encoding="utf-8") as file:
            return json.load(file)["recipe"]["model"] != recipe.model
    except (OSError, ValueError, LookupError, TypeError):
        return False
