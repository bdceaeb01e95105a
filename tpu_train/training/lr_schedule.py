"""The learning rate as a function of the step."""

import math

import tensorflow as tf


def learning_rate(recipe, phase, step, *, examples, total_examples):
    """float32 scalar for an integer step tensor of a phase: linear warm-up from 0, then the
    recipe's schedule.

    `examples` are the training images, `total_examples` those that the whole run sees. Time is
    counted in images, so that phases may differ in batch size; `recipe.learning_rate` is per 256
    images of the phase's batch. Warm-up and schedule both run from the run's first image (as the
    official code's do): the decay has begun when the warm-up ends.
    """
    peak = recipe.learning_rate * phase.batch_size / 256
    # In steps as if all batches had been of this phase's size: with one size the step itself, exact
    # in float32 up to 2**24.
    before = phase.first_example / phase.batch_size
    position = before + tf.cast(step - phase.first_step, tf.float32)
    steps_per_epoch = examples / phase.batch_size
    if recipe.learning_rate_schedule == "cosine":
        total_steps = total_examples / phase.batch_size
        rate = 0.5 * peak * (1 + tf.cos(math.pi * position / total_steps))
    elif recipe.learning_rate_schedule == "exponential":  # a staircase
        rate = peak * 0.97 ** tf.floor(position / (recipe.decay_epochs * steps_per_epoch))
    else:
        rate = tf.fill([], peak)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if warmup_steps == 0:
        return rate
    return tf.where(position < warmup_steps, peak * position / warmup_steps, rate)
