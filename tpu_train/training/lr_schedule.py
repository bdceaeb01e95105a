"""The learning rate as a function of the step."""

from __future__ import annotations

import math

import tensorflow as tf

from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe


def learning_rate(
    recipe: Recipe, phase: Phase, step: tf.Tensor, *, examples: int, total_examples: int
) -> tf.Tensor:
    """float32 scalar for an integer step of a phase: linear warm-up from 0, then the schedule.

    `examples` is the number of training images, `total_examples` the number that the whole run
    reads. Time is counted in images, so phases may differ in batch size; `recipe.learning_rate` is
    per 256 images of the phase's batch. Warm-up and schedule both start at the run's first image,
    as in the official code: the rate has already decayed when the warm-up ends. A phase that trains
    other layers than the one before warms up again, as pretrained layers would not survive the
    first steps of an optimizer at the full rate. The rate of the plateau schedule is that before
    any plateau.
    """
    peak = recipe.learning_rate * phase.batch_size / 256
    # The position in steps, as if all batches had this phase's size. If they have, it is the step
    # itself, exact in float32 up to 2**24.
    first_position = phase.first_example / phase.batch_size
    position = first_position + tf.cast(step - phase.first_step, tf.float32)
    steps_per_epoch = examples / phase.batch_size
    if recipe.learning_rate_schedule == "cosine":
        total_steps = total_examples / phase.batch_size
        rate = 0.5 * peak * (1 + tf.cos(math.pi * position / total_steps))
    elif recipe.learning_rate_schedule in ("exponential", "step"):  # a staircase
        rate = peak * recipe.decay_factor ** tf.floor(
            position / (recipe.decay_epochs * steps_per_epoch)
        )
    else:
        rate = tf.fill([], peak)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if warmup_steps == 0:
        return rate
    if phase.warms_up:
        rate *= tf.minimum(tf.cast(step - phase.first_step, tf.float32) / warmup_steps, 1.0)
    return tf.where(position < warmup_steps, peak * position / warmup_steps, rate)
