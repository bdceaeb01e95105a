"""The learning rate as a function of the step."""

import math

import tensorflow as tf


def learning_rate(recipe, step, *, steps_per_epoch, total_steps):
    """float32 scalar for an integer step tensor: linear warm-up from 0, then the recipe's schedule.

    Both run from step 0 (as the official code does): the decay has begun when the warm-up ends.
    `recipe.learning_rate` is per 256 images of the global batch.
    """
    step = tf.cast(step, tf.float32)
    peak = recipe.learning_rate * recipe.batch_size / 256
    if recipe.schedule == "cosine":
        rate = 0.5 * peak * (1 + tf.cos(math.pi * step / total_steps))
    elif recipe.schedule == "exponential":  # a staircase
        rate = peak * 0.97 ** tf.floor(step / (recipe.decay_epochs * steps_per_epoch))
    else:
        rate = tf.fill([], peak)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if warmup_steps == 0:
        return rate
    return tf.where(step < warmup_steps, peak * step / warmup_steps, rate)
