"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of neighboring images of a batch.

The input pipeline draws the random numbers; the accelerator applies them to pixels and labels.
Images 2i and 2i + 1 of a batch are neighbors and are mixed with each other.
"""

from __future__ import annotations

import tensorflow as tf

from tpu_train.input_pipeline.image_ops import second_seed

# What mixing adds to a batch: (shape, dtype) of each image.
MIXUP_KEY, CUTMIX_KEY = "mix", "box"
DRAWS = {MIXUP_KEY: ((), tf.float32), CUTMIX_KEY: ((4,), tf.int32)}


def draw_mixing(
    seed: tf.Tensor, pair_seed: tf.Tensor, size: int, *, mixup: float, cutmix: float
) -> dict[str, tf.Tensor]:
    """The random numbers that mix one image of `size` pixels a side with its neighbor.

    With `mixup` (the alpha of a beta distribution) above 0 there is ``"mix"``, float32: the weight
    of the image in [0.5, 1]; the neighbor has the rest. With `cutmix` (alpha) above 0 there is
    ``"box"``, int32 (y, x, height, width): the rectangle that is taken from the neighbor. With
    both, a fair draw from `pair_seed` selects one of the two for each pair; the other has no effect
    (weight 1, or an empty box).
    """
    draws = {}
    if mixup:
        weight = _beta(seed, mixup)
        draws[MIXUP_KEY] = tf.maximum(weight, 1 - weight)
    if cutmix:
        draws[CUTMIX_KEY] = _box(second_seed(seed), size, cutmix)
    if mixup and cutmix:
        is_mixup = tf.random.stateless_uniform([], pair_seed) < 0.5
        draws[MIXUP_KEY] = tf.where(is_mixup, draws[MIXUP_KEY], 1.0)
        draws[CUTMIX_KEY] = tf.where(is_mixup, 0, draws[CUTMIX_KEY])
    return draws


def apply_mixing(batch: dict[str, tf.Tensor], targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(images, targets) after the mixing that the batch has draws for.

    Targets (batch, classes) are mixed in the proportion of the pixels. Images become float32 with
    mixup and stay uint8 without.
    """
    images, weight = batch["image"], 1.0
    if CUTMIX_KEY in batch:
        y, x, height, width = tf.unstack(batch[CUTMIX_KEY][:, :, None], axis=1)
        pixel = tf.range(images.shape[1])[None]
        rows = tf.logical_and(pixel >= y, pixel < y + height)
        columns = tf.logical_and(pixel >= x, pixel < x + width)
        inside = tf.logical_and(rows[:, :, None], columns[:, None, :])
        images = tf.where(inside[..., None], _neighbors(images), images)
        weight *= 1 - tf.reduce_mean(tf.cast(inside, tf.float32), [1, 2])
    if MIXUP_KEY in batch:
        images = tf.cast(images, tf.float32)
        images = _interpolate(images, _neighbors(images), batch[MIXUP_KEY][:, None, None, None])
        weight *= batch[MIXUP_KEY]
    if DRAWS.keys() & batch.keys():
        targets = _interpolate(targets, _neighbors(targets), weight[:, None])
    return images, targets


def _interpolate(values, neighbors, weight):
    return weight * values + (1 - weight) * neighbors


def _neighbors(values):
    """The batch with the two members of each pair swapped."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, [-1, 2, *shape[1:]]), [1]), shape)


def _beta(seed, alpha):
    """A draw of Beta(alpha, alpha).

    From the logarithms of two gamma draws, since gamma(0.01) itself underflows.
    """
    gamma = tf.random.stateless_gamma([2], seed, alpha + 1)
    u = tf.random.stateless_uniform([2], second_seed(seed), minval=1e-37)
    logarithm = tf.math.log(gamma) + tf.math.log(u) / alpha
    return tf.sigmoid(logarithm[0] - logarithm[1])


def _box(seed, size, alpha):
    """CutMix's rectangle: 1 - Beta of the image's area, clipped at the border."""
    half = tf.cast(tf.sqrt(1 - _beta(seed, alpha)) * size, tf.int32) // 2
    center_seed = second_seed(second_seed(seed))
    center = tf.random.stateless_uniform([2], center_seed, maxval=size, dtype=tf.int32)
    begin, end = tf.maximum(center - half, 0), tf.minimum(center + half, size)
    return tf.concat([begin, end - begin], 0)
