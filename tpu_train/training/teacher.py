"""The teacher of distillation: a ``.keras`` classifier that the training step calls.

It sees the images of the student, after augmentation and mixing, resized to its own input.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_effnet.evaluation.class_matching import ClassMatch, match_classes
from keras_effnet.image_classifier import ImageClassifier, of_keras_model, open_model
from keras_effnet.provenance import file_sha256
from tpu_train.recipes.schema import Recipe

_LEAST_SCORE = 1e-7  # scores are raised to it before their logarithm


@dataclass(frozen=True, eq=False)
class TeacherFile:
    """A ``.keras`` classifier, opened in a strategy's scope."""

    path: str
    sha256: str
    model: keras.Model
    classifier: ImageClassifier
    activation: str  # of its outputs: "softmax", "sigmoid" or "logits"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher in the training step."""

    file: TeacherFile
    outputs: tuple[int, ...]  # the teacher's output of every class
    note: str  # how they were matched: one line

    def logits(self, images: tf.Tensor, loss: str) -> tf.Tensor:
        """float32 (batch, classes) of images (batch, side, side, 3) with pixels in [0, 255].

        The `loss` of the student, "softmax" or "sigmoid", of these logits gives the scores of a
        teacher that has scores.
        """
        stated = self.file.classifier.image_input
        pixels = tf.cast(images, tf.float32)
        if pixels.shape[1:3] != (stated.height, stated.width):
            pixels = tf.image.resize(pixels, (stated.height, stated.width))
        scores = tf.cast(self.file.model(pixels, training=False), tf.float32)
        scores = tf.stop_gradient(tf.gather(scores, self.outputs, axis=1))
        if self.file.activation == "logits":
            return scores
        scores = tf.clip_by_value(scores, _LEAST_SCORE, 1 - _LEAST_SCORE)
        logits = tf.math.log(scores)
        return logits - tf.math.log(1 - scores) if loss == "sigmoid" else logits


def open_teacher(
    path: str, strategy: tf.distribute.Strategy, labels: str | None = None
) -> TeacherFile:
    """The :class:`TeacherFile` of a path, with variables of the strategy.

    `labels` is a file of class names; default: ``labels.txt`` beside it. Raises ``ValueError`` for
    a file that is not a ``.keras`` classifier of RGB images with two outputs or more.
    """
    with strategy.scope():
        model, names = open_model(path, labels=labels)
    try:
        classifier = of_keras_model(model, names)
    except ValueError as error:
        raise ValueError(f"{path} cannot be a teacher: {error}") from error
    stated = classifier.image_input
    if model.output_shape[1] < 2 or stated.channels != 3 or stated.channels_first:
        raise ValueError(
            f"{path} cannot be a teacher: it must take RGB images (batch, height, width, 3) and "
            f"return a score for each of two classes or more, but takes {model.input_shape} and "
            f"returns {model.output_shape}"
        )
    scores = model(tf.zeros([1, stated.height, stated.width, 3]), training=False).numpy()
    if not np.isfinite(scores).all():
        raise ValueError(f"{path} cannot be a teacher: it returns NaN or Inf; train it again")
    kind = classifier.kind_of(scores)
    return TeacherFile(path, file_sha256(path), model, classifier, kind.activation)


def make_teacher(path: str, classes: tuple[str, ...], strategy: tf.distribute.Strategy) -> Teacher:
    """The :class:`Teacher` of these classes.

    Raises ``ValueError`` as :func:`open_teacher`, and for a teacher of other classes.
    """
    file = open_teacher(path, strategy)
    match = match_teacher(file, classes)
    return Teacher(file, match.outputs, match.note)


def match_teacher(teacher: TeacherFile, classes: tuple[str, ...]) -> ClassMatch:
    """The teacher's output of every class of the labeled data; ``ValueError`` for other classes."""
    outputs, names = teacher.classifier.classes, teacher.classifier.class_names
    if len(classes) != outputs:
        raise ValueError(
            f"the teacher {teacher.path} has {outputs} classes, and the labeled data have "
            f"{len(classes)}: a teacher must have been trained on the same classes"
        )
    try:
        return match_classes(classes, outputs, names)
    except ValueError as error:
        raise ValueError(f"the teacher {teacher.path} has other classes: {error}") from error


def with_distillation(
    terms: tf.Tensor, taught: tf.Tensor, logits: tf.Tensor, recipe: Recipe
) -> tf.Tensor:
    """The loss of every image, float32 (batch,), with the teacher's part (arXiv 1503.02531).

    ``(1 - weight) * terms + weight * T**2 * H(teacher / T, student / T)``, where H is the
    cross-entropy of the recipe's loss: the square keeps the size of the gradient at any
    temperature T.

    Args:
        terms: the loss of every image by its label.
        taught: logits of the teacher, (batch, classes).
        logits: those of the student.
        recipe: has weight, temperature and loss.
    """
    temperature, weight = recipe.teacher_temperature, recipe.teacher_weight
    taught, logits = taught / temperature, logits / temperature
    if recipe.loss == "sigmoid":
        targets = tf.sigmoid(taught)
        distance = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        distance = tf.reduce_sum(distance, -1)
    else:
        distance = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(taught), logits)
    return (1 - weight) * terms + weight * temperature**2 * distance
