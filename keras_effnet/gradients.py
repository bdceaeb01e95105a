"""Gradients of a model on every Keras backend; Keras itself has no function for them."""

from __future__ import annotations

import numpy as np


def gradient(model, inputs: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The gradient of ``sum(direction * model(inputs))`` in inference, in the shape of `inputs`.

    `model` may also be a function of an array. `inputs` and `direction` are float arrays in the
    shapes of its input and output. Raises ``ValueError`` on a backend without gradients.

    >>> import keras
    >>> double = keras.Sequential([keras.layers.Rescaling(2.0)])
    >>> gradient(double, np.ones((1, 2), "float32"), np.array([[1.0, 3.0]], "float32")).tolist()
    [[2.0, 6.0]]
    """
    import keras

    backend = keras.backend.backend()
    if backend not in _GRADIENTS:
        raise ValueError(
            f"Keras's {backend} backend has no gradients: set KERAS_BACKEND to "
            f"{' or '.join(_GRADIENTS)}, or use a method without gradients"
        )
    return _GRADIENTS[backend](model, np.asarray(inputs), np.asarray(direction))


def _tensorflow(model, inputs, direction):
    import tensorflow as tf

    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=False)
        total = tf.reduce_sum(tf.cast(y, direction.dtype) * direction)
    return tape.gradient(total, x).numpy()


def _jax(model, inputs, direction):
    import jax

    def total(x):
        return (model(x, training=False) * direction).sum()

    return np.asarray(jax.grad(total)(jax.numpy.asarray(inputs)))


def _torch(model, inputs, direction):
    import keras

    x = keras.ops.convert_to_tensor(inputs).detach().requires_grad_()
    y = model(x, training=False)
    (y * keras.ops.convert_to_tensor(direction)).sum().backward()
    return x.grad.cpu().numpy()


_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
