"""Dropout and batch norm as functions of the global batch, and the model that trains with them.

Keras's Dropout keeps a random state that checkpoints do not contain, and draws the same mask on
every replica; its batch norm updates its moving statistics on every replica separately. Here the
mask of the global batch is a function of the step, of which each replica uses the rows of its
images. Batch statistics are those of groups of a given size, and the moving statistics are updated
once per step with the mean over all groups. Results therefore do not depend on the number of
replicas or of gradient-accumulation steps.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from keras_effnet.finetuning import select_layers
from keras_effnet.weight_transfer import copy_weights
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe
from tpu_train.training import cpu_layers

_UNNAMED = re.compile(r"dropout(?:_(\d+))?")  # as Keras names dropouts


@dataclass(frozen=True)
class _Draw:
    seed: tf.Tensor  # int32 [2], of the step
    row: tf.Tensor  # of the first of these images in the global batch
    rows: int  # images of the global batch
    replicas: int  # that compute the same accumulation step at the same time
    statistics: list = field(default_factory=list)  # (layer, mean, variance), in call order


# Per thread, because tf.distribute runs one thread per replica.
_DRAW = contextvars.ContextVar("draw")


@contextlib.contextmanager
def draw(
    seed: tf.Tensor, row: tf.Tensor, rows: int, replicas: int
) -> Iterator[list[tuple[GroupedBatchNorm, tf.Tensor, tf.Tensor]]]:
    """Context in which layers called with ``training=True`` use the seed and record statistics.

    Yields a list to which every batch norm appends (layer, mean, variance) of its images, float32.

    Args:
        seed: int32 [2], of the step.
        row: of the first of these images in the global batch.
        rows: number of images in the global batch.
        replicas: number of replicas that compute at the same time.
    """
    current = _Draw(seed, row, rows, replicas)
    token = _DRAW.set(current)
    try:
        yield current.statistics
    finally:
        _DRAW.reset(token)


class SeededDropout(keras.layers.Layer):
    """Dropout with reproducible masks; with noise shape (None, 1, 1, 1), stochastic depth.

    `rate` is read when a step is traced: set it before tracing. `full_rate` is the initial rate.
    Masks are a function of `drawn_as`, by default the layer's name.
    """

    def __init__(self, rate, noise_shape=None, drawn_as="", **kwargs):
        super().__init__(**kwargs)
        self.rate, self.full_rate, self.noise_shape = rate, rate, noise_shape
        self.drawn_as = drawn_as or self.name
        self.supports_masking = True

    def call(self, inputs, training=False):
        """Inputs of any shape; unchanged if not in training."""
        if not training or self.rate == 0:
            return inputs
        current = _DRAW.get()
        batch = inputs.shape[0]  # static, as all shapes of a training step
        rest = self.noise_shape[1:] if self.noise_shape else [None] * (len(inputs.shape) - 1)
        shape = [inputs.shape[i + 1] if n is None else n for i, n in enumerate(rest)]
        salt = zlib.crc32(self.drawn_as.encode()) & 0x7FFFFFFF
        seed = tf.random.experimental.stateless_fold_in(current.seed, salt)
        uniform = tf.random.stateless_uniform([current.rows, *shape], seed)
        local = tf.slice(uniform, [current.row] + [0] * len(shape), [batch, *shape])
        return inputs * tf.cast(local >= self.rate, inputs.dtype) / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self):
        """The arguments of the constructor."""
        drawn = {"rate": self.rate, "noise_shape": self.noise_shape, "drawn_as": self.drawn_as}
        return {**super().get_config(), **drawn}


class GroupedBatchNorm(keras.layers.BatchNormalization):
    """Batch norm over groups of images of the global batch, across replicas.

    In training, it does not update its moving statistics. It records the batch statistics in
    :func:`draw`, and the step updates the variables of :func:`moving_statistics`. A group is at
    most the images that all replicas compute in one gradient-accumulation step.
    """

    group_size = 0  # images; 0 for the largest group
    frozen = False  # uses its moving statistics, also in training; read when a step is traced

    def call(self, inputs, training=False, mask=None):
        """Inputs of shape (batch, ..., channels)."""
        if not training or not self.trainable or self.frozen:
            return super().call(inputs, training=False)
        current = _DRAW.get()
        local = inputs.shape[0]
        largest = local * current.replicas
        group = min(self.group_size or largest, largest)
        if group > local:
            pixels = tf.cast(inputs, tf.float32)
            axes = list(range(len(inputs.shape) - 1))
            moments = [tf.reduce_mean(pixels, axes), tf.reduce_mean(tf.square(pixels), axes)]
            mean, square = _mean_over_group(tf.stack(moments), group // local, current.replicas)
            variance = tf.maximum(square - tf.square(mean), 0.0)
            outputs = self._normalize(pixels, mean, variance)
        elif group == local and inputs.dtype == tf.float32 and len(inputs.shape) == 4:
            # One kernel forward and one backward: half the memory traffic of separate operations.
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, *self._scale_and_offset(inputs.shape[-1]), epsilon=self.epsilon
            )
            count = inputs.shape.num_elements() // inputs.shape[-1]
            variance *= (count - 1) / count  # the kernel returns the unbiased estimate
        else:
            pixels = tf.cast(inputs, tf.float32)
            pixels = tf.reshape(pixels, [local // group, group, *inputs.shape[1:]])
            axes = list(range(1, len(inputs.shape)))
            mean, variance = tf.nn.moments(pixels, axes, keepdims=True)
            outputs = tf.reshape(self._normalize(pixels, mean, variance), inputs.shape)
            mean, variance = (
                tf.reduce_mean(tf.reshape(m, [-1, inputs.shape[-1]]), 0) for m in (mean, variance)
            )
        current.statistics.append((self, tf.stop_gradient(mean), tf.stop_gradient(variance)))
        return tf.cast(outputs, inputs.dtype)

    def _scale_and_offset(self, channels):
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels])
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels])
        return scale, offset

    def _normalize(self, pixels, mean, variance):
        scale, offset = self._scale_and_offset(pixels.shape[-1])
        return tf.nn.batch_normalization(pixels, mean, variance, offset, scale, self.epsilon)


def _mean_over_group(moments, group_replicas, replicas):
    """The mean of `moments` over the `group_replicas` neighboring replicas that share a group.

    One all-reduce of the sums of all groups: every strategy supports it, and it has a gradient.
    """
    context = tf.distribute.get_replica_context()
    if group_replicas == replicas:
        return tf.unstack(context.all_reduce("SUM", moments) / replicas)
    group = context.replica_id_in_sync_group // group_replicas
    sums = tf.one_hot(group, replicas // group_replicas)[:, None, None] * moments
    return tf.unstack(context.all_reduce("SUM", sums)[group] / group_replicas)


def moving_statistics(layer: GroupedBatchNorm, momentum: float) -> list[tuple]:
    """[(moving mean, momentum), (moving variance, momentum)]; `momentum` 0 is the layer's."""
    momentum = momentum or layer.momentum
    return [(layer.moving_mean, momentum), (layer.moving_variance, momentum)]


def training_clone(
    model: keras.Model, *, batch_norm_group_size: int = 0, on_cpu: bool = False
) -> keras.Model:
    """A copy of `model` with the dropout and batch norm of this module, and its own variables.

    Its weights have the same values and order, so ``get_weights`` and ``set_weights`` exchange them
    with `model`. `on_cpu` also takes the layers of :mod:`tpu_train.training.cpu_layers`.
    """
    dropouts = [layer.name for layer in model.layers if type(layer) is keras.layers.Dropout]
    names = _recounted(dropouts)

    def clone(layer):
        if on_cpu and (faster := cpu_layers.faster_layer(layer)):
            return faster
        config = layer.get_config()
        if type(layer) is keras.layers.Dropout:
            return SeededDropout(
                *(config["rate"], config["noise_shape"], names.get(layer.name, "")),
                name=layer.name,
                dtype=config["dtype"],
            )
        if type(layer) is keras.layers.BatchNormalization:
            batch_norm = GroupedBatchNorm.from_config(config)
            batch_norm.group_size = batch_norm_group_size
            return batch_norm
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy_weights(model, copy)
    return copy


def _recounted(names):
    """{name: name} of dropouts that Keras has named, counted from the first of these.

    Keras counts them over all networks of a process: dropout_7, where another process has dropout.

    >>> _recounted(["dropout_9", "dropout_10", "top_dropout"])
    {'dropout_9': 'dropout', 'dropout_10': 'dropout_1'}
    """
    numbers = {name: match[1] for name in names if (match := _UNNAMED.fullmatch(name))}
    ordered = sorted(numbers, key=lambda name: int(numbers[name] or 0))
    return {name: f"dropout_{i}" if i else "dropout" for i, name in enumerate(ordered)}


def set_phase(model: keras.Model, recipe: Recipe, phase: Phase) -> None:
    """Sets what the layers of a training clone do in a phase; to be called before it is traced.

    The rates of dropout and stochastic depth, and which batch norms use their moving statistics.
    """
    full_rate = max(recipe.drop_path_first, recipe.drop_path_last)
    set_dropout(model, phase.dropout_rate, phase.drop_path_rate / full_rate if full_rate else 0.0)
    set_frozen(model, phase.freeze)


def set_frozen(model: keras.Model, freeze: str) -> None:
    """Lets the batch norms that `freeze` selects, and no others, use their moving statistics."""
    frozen = select_layers(model, freeze)
    for layer in model.layers:
        if isinstance(layer, GroupedBatchNorm):
            layer.frozen = any(layer is other for other in frozen)


def set_dropout(model: keras.Model, dropout_rate: float, drop_path_factor: float) -> None:
    """Sets the rate of every dropout, and multiplies the initial rate of stochastic depth."""
    for layer in model.layers:
        if isinstance(layer, SeededDropout):
            layer.rate = layer.full_rate * drop_path_factor if layer.noise_shape else dropout_rate
