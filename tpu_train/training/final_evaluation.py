"""The evaluation pages at the end of a run: metrics of the final weights, by class and image."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_effnet.evaluation.outcomes import OutcomeRecorder, Outcomes, ScoreKind
from keras_effnet.evaluation.output_files import write_evaluation
from keras_effnet.evaluation.summary import Evaluation, evaluate_outcomes
from keras_effnet.provenance import file_sha256, package_versions
from tpu_train.input_pipeline.image_source import ImageSource, without_exif
from tpu_train.recipes.schema import Recipe
from tpu_train.training.evaluation import (
    distributed_batches,
    evaluation_batch_size,
    gathered_outputs,
)
from tpu_train.training.recovery import TrainingError

_VERSIONS = ("tensorflow", "keras", "numpy")


def write_pages(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    recipe: Recipe,
    sources: Mapping[str, ImageSource],
    model_file: str,
    *,
    writes: bool,
) -> dict[str, Evaluation]:
    """Evaluates `model`, a classifier of logits, on every source; {name: evaluation}.

    `model_file` is its exported file.

    All workers of `strategy` must call it. Those that `writes` write the files of
    :func:`keras_effnet.evaluation.output_files.write_evaluation` beside `model_file`, named after
    the sources. Raises :class:`~tpu_train.training.recovery.TrainingError` for scores with NaN or
    Inf.
    """
    evaluations = {}
    for name, source in sources.items():
        try:
            outcomes, kind = score_source(strategy, model, source, recipe)
        except ValueError as error:
            raise TrainingError(
                f"The {name} images cannot be evaluated: {error}. {model_file} has these weights. "
                f"Train again with a lower --learning_rate (now {recipe.learning_rate}) or "
                "--clip_norm=1"
            ) from error
        identifiers = [str(source.where(i)) for i in range(source.examples)]
        evaluations[name] = evaluate_outcomes(outcomes, kind, source.classes, identifiers)
        if writes:
            shown = without_exif(source) if recipe.ignore_exif else source
            write_evaluation(
                os.path.dirname(model_file),
                name,
                evaluations[name],
                _origin(recipe, source, model_file),
                lambda row, shown=shown: _picture(shown, row),
            )
    return evaluations


def score_source(
    strategy: tf.distribute.Strategy, model: keras.Model, source: ImageSource, recipe: Recipe
) -> tuple[Outcomes, ScoreKind]:
    """The outcomes of all images of a source, each exactly once and in order, on every worker.

    `model` returns logits. For a sigmoid loss the scores are their sigmoids.
    """
    kind = ScoreKind(len(source.classes), "sigmoid" if recipe.loss == "sigmoid" else "logits")
    batch_size = evaluation_batch_size(strategy, source, recipe)

    def scores_of(images, training):
        scores = tf.cast(model(images, training=training), tf.float32)
        return tf.sigmoid(scores) if kind.activation == "sigmoid" else scores

    score = gathered_outputs(strategy, scores_of)
    recorder, indices = OutcomeRecorder(kind), []
    for batch in distributed_batches(strategy, source, recipe, batch_size)():
        index, scores = score(batch)
        recorder.add(scores, source.labels[index])
        indices.append(index)
    order = np.argsort(np.concatenate(indices))
    return recorder.outcomes().take(order), kind


def _picture(source, i):
    """Image `i`: uint8 (height, width, 3)."""
    stored = source.read(tf.constant(i, tf.int64))
    window = tf.concat([[0, 0], source.shape(stored)[:2]], 0)
    return source.crop(stored, window).numpy()


def _origin(recipe, source, model_file):
    now = datetime.datetime.now(datetime.timezone.utc)
    crop = f"center square of {recipe.crop_eval:.3g}" if recipe.crop_eval else "the whole image"
    size = recipe.image_size_eval
    model, weights = recipe.model, recipe.weights
    if model.endswith(".keras"):  # what the run started from, and did not evaluate
        model, weights = model_file, recipe.model
    return {
        "model": model,
        "model_sha256": file_sha256(model_file),
        "data": source.name,
        "unreadable": list(source.skipped),
        "check": None,
        "facts": {
            "Model": f"{model}, EMA weights",
            "Initial weights": weights,
            "Data": source.name,
            "Preprocessing": f"{crop}, {recipe.interpolation} to {size} x {size} pixels",
            "Date": now.isoformat(timespec="seconds"),
            "Versions": ", ".join(f"{k} {v}" for k, v in package_versions(_VERSIONS).items()),
        },
    }
