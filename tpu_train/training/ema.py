"""Exponential moving average (EMA) of weights and batch-norm statistics, with the official ramp."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf


def update(
    strategy: tf.distribute.Strategy,
    averages: Iterable[tf.Variable],
    variables: Iterable[tf.Variable],
    decay: float,
    step: tf.Tensor,
) -> None:
    """Moves every average towards its variable; to be called in cross-replica context.

    The decay is min(`decay`, (1 + step) / (10 + step)), as that of TensorFlow 1's
    ``ExponentialMovingAverage`` with ``num_updates``.
    """
    n = tf.cast(step, tf.float32)
    rate = 1 - tf.minimum(decay, (1 + n) / (10 + n))

    def move(average, rate, variable):
        if average.dtype.is_floating:
            average.assign_add(rate * (variable - average))
        else:  # a counter, e.g. of an adapted Normalization
            average.assign(variable)

    for average, variable in zip(averages, variables):
        strategy.extended.update(average, move, args=(rate, variable), group=False)
