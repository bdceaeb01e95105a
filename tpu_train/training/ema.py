"""Exponential moving averages of weights and batch-norm statistics, with the official ramp."""

import tensorflow as tf


def update(strategy, averages, variables, decay, step):
    """One step of every average, in cross-replica context.

    The decay is min(`decay`, (1 + step) / (10 + step)), as TensorFlow 1's with ``num_updates``.
    """
    n = tf.cast(step, tf.float32)
    share = 1 - tf.minimum(decay, (1 + n) / (10 + n))

    def move(average, share, variable):
        average.assign_add(share * (variable - average))

    for average, variable in zip(averages, variables):
        strategy.extended.update(average, move, args=(share, variable), group=False)
