"""Dropout whose masks are a function of (seed, step, layer, image), and the model that has it.

Keras's Dropout keeps a random state that no checkpoint has, and draws the same mask on every
replica. Here the mask of a whole global batch follows from the step, and each replica takes its own
images' rows of it: no state, and the same numbers for any number of replicas.
"""

import contextlib
import contextvars
import zlib
from dataclasses import dataclass

import keras
import tensorflow as tf


@dataclass(frozen=True)
class _Draw:
    seed: tf.Tensor  # int32 [2], of the step
    replica: tf.Tensor  # this one's number
    replicas: int


_DRAW = contextvars.ContextVar("draw")  # per thread, as tf.distribute runs one thread a replica


@contextlib.contextmanager
def draw(seed, replica, replicas):
    """Within it, every SeededDropout that is called in training draws from that step's seed."""
    token = _DRAW.set(_Draw(seed, replica, replicas))
    try:
        yield
    finally:
        _DRAW.reset(token)


class SeededDropout(keras.layers.Layer):
    """Dropout, also of whole images with noise shape (None, 1, 1, 1); its masks can be repeated.

    `rate` is read when a step is traced: set it, then trace anew.
    """

    def __init__(self, rate, noise_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.noise_shape = rate, noise_shape
        self.supports_masking = True

    def call(self, inputs, training=False):
        """Inputs of any shape, unchanged outside of training."""
        if not training or self.rate == 0:
            return inputs
        now = _DRAW.get()
        batch = inputs.shape[0]  # static: every training step has static shapes
        rest = self.noise_shape[1:] if self.noise_shape else [None] * (len(inputs.shape) - 1)
        shape = [inputs.shape[i + 1] if n is None else n for i, n in enumerate(rest)]
        salt = zlib.crc32(self.name.encode()) & 0x7FFFFFFF
        seed = tf.random.experimental.stateless_fold_in(now.seed, salt)
        uniform = tf.random.stateless_uniform([now.replicas * batch, *shape], seed)
        own = tf.slice(uniform, [now.replica * batch] + [0] * len(shape), [batch, *shape])
        return inputs * tf.cast(own >= self.rate, inputs.dtype) / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """For Keras's cloning."""
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}


def training_clone(model, *, sync_batch_norm):
    """A model that shares nothing with `model` but its structure, with seeded dropout.

    Its weights are `model`'s in value and order, so that ``get_weights`` and ``set_weights`` carry
    them back and forth. `sync_batch_norm` takes the statistics of batch norm over all replicas.
    """

    def clone(layer):
        config = layer.get_config()
        if type(layer) is keras.layers.Dropout:
            return SeededDropout(
                config["rate"], config["noise_shape"], name=layer.name, dtype=config["dtype"]
            )
        if type(layer) is keras.layers.BatchNormalization and sync_batch_norm:
            config["synchronized"] = True
        return layer.__class__.from_config(config)

    twin = keras.models.clone_model(model, clone_function=clone)
    twin.set_weights(model.get_weights())
    return twin


def set_dropout(model, rate):
    """Sets the rate of every dropout of single values; stochastic depth keeps its rates."""
    for layer in model.layers:
        if isinstance(layer, SeededDropout) and not layer.noise_shape:
            layer.rate = rate
