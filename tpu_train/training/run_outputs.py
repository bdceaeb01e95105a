"""The last files of a run: the best model as model.keras, evaluation pages and model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_effnet.atomic_write import replacing
from keras_effnet.evaluation.summary import Evaluation
from keras_effnet.keras_file import load_keras_file
from keras_effnet.model_card.card import make_keras_card
from keras_effnet.model_card.output_files import RUN_CARD, write_card
from keras_effnet.weight_transfer import set_weights
from tpu_train.checkpointing.workdir import BEST, MODEL, Workdir
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.schema import Recipe
from tpu_train.training.final_evaluation import write_pages


def take_best_model(files: Workdir, ema_model: keras.Model) -> None:
    """Writes model.keras as a copy of best.keras, whose weights `ema_model` then has, too."""
    best = files.local(BEST)
    with replacing(files.local(MODEL)) as temporary:
        shutil.copyfile(best, temporary)
    set_weights(ema_model, load_keras_file(best).get_weights())


def write_reports(
    recipe: Recipe,
    sources: Mapping[str, ImageSource | None],
    files: Workdir,
    strategy: tf.distribute.Strategy,
    ema_model: keras.Model,
) -> dict[str, Evaluation]:
    """Evaluates model.keras on each of the sources that have images, and writes a page for each and
    the model card; {name of the source: its evaluation}.
    """
    is_chief = strategy.extended.should_checkpoint
    path = files.local(MODEL)
    sources = {name: source for name, source in sources.items() if source and source.examples}
    evaluations = {}
    if sources:
        evaluations = write_pages(strategy, ema_model, recipe, sources, path, writes=is_chief)
    if is_chief:
        evaluated = [files.local(f"{name}.json") for name in evaluations]
        write_card(make_keras_card(path, evaluated), files.local(RUN_CARD))
    return evaluations
