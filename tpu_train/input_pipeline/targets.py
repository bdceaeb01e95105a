"""Training targets of class labels, weights of the classes, and oversampling of rare ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_effnet.suggestions import did_you_mean
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.schema import Recipe, parse_class_weights


def soft_targets(labels: tf.Tensor, classes: int, *, smoothing: float, loss: str) -> tf.Tensor:
    """Smoothed one-hot targets, float32 (batch, classes).

    `labels` are int32 (batch,), or (batch, most) padded with -1 for images with several labels,
    which share the 1 of a softmax loss equally.

    >>> print(soft_targets(tf.constant([1, 3]), 4, smoothing=0.05, loss="softmax").numpy())
    [[0.0125 0.9625 0.0125 0.0125]
     [0.0125 0.0125 0.0125 0.9625]]
    """
    hot = tf.one_hot(labels, classes)  # zeros for the padding of -1
    if labels.shape.rank == 2:
        hot = tf.reduce_max(hot, 1)
    if loss == "sigmoid":
        return hot * (1 - smoothing) + smoothing / 2
    if labels.shape.rank == 2:
        hot = tf.math.divide_no_nan(hot, tf.reduce_sum(hot, -1, keepdims=True))
    return hot * (1 - smoothing) + smoothing / classes


def training_targets(batch: Mapping[str, tf.Tensor], classes: int, recipe: Recipe) -> tf.Tensor:
    """The targets of a training batch before mixing, float32 (batch, classes).

    `batch` is as :func:`tpu_train.input_pipeline.batches.training_batches` returns it. Soft
    pseudo-labels are the scores at the recipe's temperature, without smoothing, as in the official
    code (google-research/noisystudent, main.py); hard ones are smoothed as other labels.
    """
    if "target" in batch:  # mixed already, by keras_cv
        return batch["target"]
    targets = soft_targets(
        batch["label"], classes, smoothing=recipe.label_smoothing, loss=recipe.loss
    )
    if "scores" not in batch or recipe.pseudo_labels == "hard":
        return targets
    is_pseudo = tf.reduce_any(batch["scores"] > 0, -1, keepdims=True)
    scores = tempered_scores(batch["scores"], recipe.teacher_temperature, loss=recipe.loss)
    return tf.where(is_pseudo, scores, targets)


def tempered_scores(scores: tf.Tensor, temperature: float, *, loss: str) -> tf.Tensor:
    """Scores in [0, 1] as if the logits behind them were divided by the temperature.

    >>> print(tempered_scores(tf.constant([[0.8, 0.2]]), 2.0, loss="softmax").numpy().round(3))
    [[0.667 0.333]]
    """
    if temperature == 1 and loss == "sigmoid":
        return scores  # those of a softmax loss must sum to 1; a teacher with sigmoids has others
    powers = scores ** (1 / temperature)
    rest = (1 - scores) ** (1 / temperature)
    total = tf.reduce_sum(powers, -1, keepdims=True) if loss == "softmax" else powers + rest
    return tf.math.divide_no_nan(powers, total)


def class_weights(setting: str, source: ImageSource) -> np.ndarray | None:
    """The weight of each class in the loss, float32 (classes,); None for equal weights.

    `setting` is "none", "balanced" (inverse to the frequencies, 1 on average over the labels), or
    weights by class name, as "cat:2,dog:1" or as JSON. A class that is not named has weight 1.
    Raises ``ValueError`` for other text, unknown classes and weights that are not positive numbers.
    """
    if setting == "none":
        return None
    if setting == "balanced":
        counts = _label_counts(source)
        labels = counts.sum()
        return (labels / (len(counts) * np.maximum(counts, 1))).astype(np.float32)
    weights = np.ones(len(source.classes), np.float32)
    for name, weight in parse_class_weights(setting).items():
        if name not in source.classes:
            raise ValueError(
                f"class_weights: {source.name} has no class {name!r}."
                f"{did_you_mean(name, source.classes)} Its {len(source.classes)} classes are "
                f"{', '.join(source.classes[:5])}{', ...' if len(source.classes) > 5 else ''}"
            )
        weights[source.classes.index(name)] = weight
    return weights


def images_of_epoch(source: ImageSource, recipe: Recipe) -> ImageSource:
    """The images of a training epoch: those of `source`, oversampled if the recipe says so."""
    return oversample(source, recipe.seed) if recipe.oversample else source


def oversample(source: ImageSource, seed: int) -> ImageSource:
    """The source with images of rarer classes repeated until each class has as many as the largest.

    An epoch then has more images. Every image of a class occurs equally often, or once more: which
    ones is a function of the seed. An image of several labels is repeated as its rarest requires.
    """
    counts = _label_counts(source)
    factors = counts.max() / np.maximum(counts, 1)
    if source.is_multi_label:
        of_image = np.where(source.labels >= 0, factors[source.labels], 0).max(1)
    else:
        of_image = factors[source.labels]
    copies = of_image.astype(int)
    order = np.random.default_rng([seed, 3]).permutation(source.examples)
    for label in range(len(counts)):  # of several labels: the rarest one's class
        members = order[of_image[order] == factors[label]]
        members = members[_has_label(source.labels[members], label)]
        missing = round(len(members) * (factors[label] - int(factors[label])))
        copies[members[:missing]] = int(factors[label]) + 1
    return source.take(np.repeat(np.arange(source.examples), copies))


def _label_counts(source):
    """The number of images with each label: int (classes,)."""
    labels = source.labels[source.labels >= 0]
    return np.bincount(labels, minlength=len(source.classes))


def _has_label(labels, label):
    return labels == label if labels.ndim == 1 else (labels == label).any(1)
