"""Dropout and batch norm as functions of the global batch, and the model that trains with them.

Keras's Dropout keeps a random state that no checkpoint has, and draws the same mask on every
replica; its batch norm moves its statistics on every replica for itself. Here the mask of a whole
global batch follows from the step and each replica takes its own images' rows of it; statistics are
those of stated groups of images, and are moved once a step by the mean of all groups. So the same
numbers come out for any number of replicas, and for a batch that is computed in parts.
"""

import contextlib
import contextvars
import zlib
from dataclasses import dataclass, field

import keras
import tensorflow as tf


@dataclass(frozen=True)
class _Draw:
    seed: tf.Tensor  # int32 [2], of the step
    row: tf.Tensor  # of the first of these images in the global batch
    rows: int  # images of the global batch
    replicas: int  # that compute their images of the same part at once
    statistics: list = field(default_factory=list)  # (layer, mean, variance), in order of calls


_DRAW = contextvars.ContextVar("draw")  # per thread, as tf.distribute runs one thread a replica


@contextlib.contextmanager
def draw(seed, row, rows, replicas):
    """Within it, layers called in training draw from that step's seed and leave their statistics.

    Yields the list that batch norm adds to: (layer, mean, variance) of its images, float32.
    """
    now = _Draw(seed, row, rows, replicas)
    token = _DRAW.set(now)
    try:
        yield now.statistics
    finally:
        _DRAW.reset(token)


class SeededDropout(keras.layers.Layer):
    """Dropout, also of whole images with noise shape (None, 1, 1, 1); its masks can be repeated.

    `rate` is read when a step is traced: set it, then trace anew. `full_rate` is what it was built
    with.
    """

    def __init__(self, rate, noise_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.full_rate, self.noise_shape = rate, rate, noise_shape
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
        uniform = tf.random.stateless_uniform([now.rows, *shape], seed)
        own = tf.slice(uniform, [now.row] + [0] * len(shape), [batch, *shape])
        return inputs * tf.cast(own >= self.rate, inputs.dtype) / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """For Keras's cloning."""
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}


class GroupedBatchNorm(keras.layers.BatchNormalization):
    """Batch norm over groups of `images` of the global batch (0: all of them), over replicas.

    In training its moving statistics stay as they are: it leaves the batch's to `draw`, and
    :func:`moved` says what becomes of them. A group is never larger than the part of the batch that
    is computed at once.
    """

    images = 0

    def call(self, inputs, training=False, mask=None):
        """Inputs of shape (batch, ..., channels)."""
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        now = _DRAW.get()
        own = inputs.shape[0]
        group = min(self.images or own * now.replicas, own * now.replicas)
        if group > own:
            pixels = tf.cast(inputs, tf.float32)
            axes = list(range(len(inputs.shape) - 1))
            moments = [tf.reduce_mean(pixels, axes), tf.reduce_mean(tf.square(pixels), axes)]
            mean, square = _over_replicas(tf.stack(moments), group // own, now.replicas)
            variance = tf.maximum(square - tf.square(mean), 0.0)
            outputs = self._normalize(pixels, mean, variance)
        elif group == own and inputs.dtype == tf.float32 and len(inputs.shape) == 4:
            # One kernel forward and one backward: half the memory traffic of the arithmetic.
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, *self._scale_and_offset(inputs.shape[-1]), epsilon=self.epsilon
            )
            count = inputs.shape.num_elements() // inputs.shape[-1]
            variance *= (count - 1) / count  # the kernel's is the unbiased estimate
        else:
            pixels = tf.cast(inputs, tf.float32)
            pixels = tf.reshape(pixels, [own // group, group, *inputs.shape[1:]])
            axes = list(range(1, len(inputs.shape)))
            mean, variance = tf.nn.moments(pixels, axes, keepdims=True)
            outputs = tf.reshape(self._normalize(pixels, mean, variance), inputs.shape)
            mean, variance = (
                tf.reduce_mean(tf.reshape(m, [-1, inputs.shape[-1]]), 0) for m in (mean, variance)
            )
        now.statistics.append((self, tf.stop_gradient(mean), tf.stop_gradient(variance)))
        return tf.cast(outputs, inputs.dtype)

    def _scale_and_offset(self, channels):
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels])
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels])
        return scale, offset

    def _normalize(self, pixels, mean, variance):
        scale, offset = self._scale_and_offset(pixels.shape[-1])
        return tf.nn.batch_normalization(pixels, mean, variance, offset, scale, self.epsilon)


def _over_replicas(moments, together, replicas):
    """The mean of a replica's `moments` over the `together` neighbours that it is in a group with.

    One all-reduce of all groups' sums: every strategy has it, and it has a gradient.
    """
    context = tf.distribute.get_replica_context()
    if together == replicas:
        return tf.unstack(context.all_reduce("SUM", moments) / replicas)
    own = context.replica_id_in_sync_group // together
    places = tf.one_hot(own, replicas // together)[:, None, None] * moments
    return tf.unstack(context.all_reduce("SUM", places)[own] / together)


def moved(layer, momentum):
    """[(moving variable, momentum), ...] of a batch norm: its mean's and its variance's."""
    share = momentum or layer.momentum
    return [(layer.moving_mean, share), (layer.moving_variance, share)]


def training_clone(model, *, batch_norm_group_size=0, freeze="none"):
    """A model that shares nothing with `model` but its structure, and trains as this module says.

    Its weights are `model`'s in value and order, so that ``get_weights`` and ``set_weights`` carry
    them back and forth. `freeze`: "batch_norm" (its statistics, too), "backbone" (all but the last
    layer) or "none".
    """

    def clone(layer):
        config = layer.get_config()
        if type(layer) is keras.layers.Dropout:
            return SeededDropout(
                config["rate"], config["noise_shape"], name=layer.name, dtype=config["dtype"]
            )
        if type(layer) is keras.layers.BatchNormalization:
            twin = GroupedBatchNorm.from_config(config)
            twin.images = batch_norm_group_size
            return twin
        return layer.__class__.from_config(config)

    twin = keras.models.clone_model(model, clone_function=clone)
    twin.set_weights(model.get_weights())
    for layer in twin.layers:
        if freeze == "batch_norm" and isinstance(layer, GroupedBatchNorm):
            layer.trainable = False
        if freeze == "backbone" and layer is not twin.layers[-1]:
            layer.trainable = False
    return twin


def set_dropout(model, dropout_rate, drop_path_share):
    """Sets the rate of every dropout of single values; stochastic depth's to a share of its own."""
    for layer in model.layers:
        if isinstance(layer, SeededDropout):
            layer.rate = layer.full_rate * drop_path_share if layer.noise_shape else dropout_rate
