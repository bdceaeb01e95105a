"""Training targets of class labels."""

from __future__ import annotations

import tensorflow as tf


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
