"""Augmentation of a training image: policies, flips and turns, color jitter, cutout, erasing.

Every function takes a seed, an integer tensor of shape [2]: the same seed gives the same image.
Images are uint8 (height, width, 3) of a static shape, in a TensorFlow graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from tpu_train.input_pipeline import image_ops

MAX_LEVEL = 10.0
_MIN_SIZE = 128  # the papers' smallest images; distances in pixels shrink below it


@dataclass(frozen=True)
class Limits:
    """Strength of an operation at level 10, where the policies differ."""

    translate: float  # pixels, for images of at least 128 pixels a side
    cutout: float  # half the side of the square in pixels
    solarize_wraps: bool = False  # overflow of the official code: threshold 256 is 0, 384 is 128


# google/automl efficientnetv2/autoaugment.py: translate_const and cutout_const
_RANDAUGMENT = Limits(translate=100.0, cutout=40.0)
_AUTOAUGMENT = Limits(translate=250.0, cutout=100.0)


def _pixels(distance, level, image):
    """A distance in pixels, reduced in proportion for images smaller than the papers'."""
    return distance * level * min(1.0, min(image.shape[:2]) / _MIN_SIZE)


def _signed(value, chance):
    """The value with a random sign."""
    return tf.where(chance < 0.5, -value, value)


def _threshold(level, limits):
    threshold = int(256 * level)
    return threshold % 256 if limits.solarize_wraps else threshold


# (image, level as a fraction of the maximum, two uniform numbers in [0, 1), limits) -> image
OPERATIONS = {
    "AutoContrast": lambda image, level, u, limits: image_ops.autocontrast(image),
    "Equalize": lambda image, level, u, limits: image_ops.equalize(image),
    "Invert": lambda image, level, u, limits: image_ops.invert(image),
    "Rotate": lambda image, level, u, limits: image_ops.rotate(image, _signed(30.0 * level, u[0])),
    "Posterize": lambda image, level, u, limits: image_ops.posterize(image, int(4 * level)),
    "Solarize": lambda image, level, u, limits: image_ops.solarize(
        image, _threshold(level, limits)
    ),
    "Color": lambda image, level, u, limits: image_ops.color(image, 1.8 * level + 0.1),
    "Contrast": lambda image, level, u, limits: image_ops.contrast(image, 1.8 * level + 0.1),
    "Brightness": lambda image, level, u, limits: image_ops.brightness(image, 1.8 * level + 0.1),
    "Sharpness": lambda image, level, u, limits: image_ops.sharpness(image, 1.8 * level + 0.1),
    "ShearX": lambda image, level, u, limits: image_ops.shear_x(image, _signed(0.3 * level, u[0])),
    "ShearY": lambda image, level, u, limits: image_ops.shear_y(image, _signed(0.3 * level, u[0])),
    "TranslateX": lambda image, level, u, limits: image_ops.translate_x(
        image, _signed(_pixels(limits.translate, level, image), u[0])
    ),
    "TranslateY": lambda image, level, u, limits: image_ops.translate_y(
        image, _signed(_pixels(limits.translate, level, image), u[0])
    ),
    "Cutout": lambda image, level, u, limits: image_ops.cutout(
        image, int(_pixels(limits.cutout, level, image)), u
    ),
    "SolarizeAdd": lambda image, level, u, limits: image_ops.solarize_add(image, int(110 * level)),
}


def _apply(name, image, level, u, limits):
    return OPERATIONS[name](image, level / MAX_LEVEL, u, limits)


def randaugment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    magnitude: float,
    layers: int,
    solarize_wraps: bool = False,
) -> tf.Tensor:
    """The image, uint8 (height, width, 3), after `layers` random operations at `magnitude` / 10.

    Operations and magnitudes are those of the official EfficientNet code (arXiv 1909.13719).
    """
    limits = Limits(_RANDAUGMENT.translate, _RANDAUGMENT.cutout, solarize_wraps)
    draws = tf.random.stateless_uniform([layers, 3], seed)
    for layer in range(layers):
        image = tf.switch_case(
            tf.cast(draws[layer, 0] * len(OPERATIONS), tf.int32),
            [
                lambda name=name, image=image, u=draws[layer, 1:]: _apply(
                    name, image, magnitude, u, limits
                )
                for name in OPERATIONS
            ],
        )
    return image


# The ImageNet policy (arXiv 1805.09501, appendix; policy_v0 of the official code). Each image gets
# one pair, and each operation of the pair is applied with its probability, at its level.
POLICY_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def autoaugment(image: tf.Tensor, seed: tf.Tensor, *, solarize_wraps: bool = False) -> tf.Tensor:
    """The image, uint8 (height, width, 3), after AutoAugment's policy v0 for ImageNet."""
    limits = Limits(_AUTOAUGMENT.translate, _AUTOAUGMENT.cutout, solarize_wraps)
    draws = tf.random.stateless_uniform([7], seed)
    pair = tf.cast(draws[0] * len(POLICY_V0), tf.int32)
    for position in range(2):
        chance, u = draws[1 + 3 * position], draws[2 + 3 * position : 4 + 3 * position]
        steps = [pair_steps[position] for pair_steps in POLICY_V0]
        # One branch for the steps that several pairs share: it halves the tracing time.
        distinct = sorted({(name, level) for name, _, level in steps})
        branch = tf.constant([distinct.index((name, level)) for name, _, level in steps])[pair]
        probability = tf.constant([probability for _, probability, _ in steps])[pair]
        image = tf.switch_case(
            tf.where(chance < probability, branch, len(distinct)),
            [
                *(
                    lambda name=name, level=level, image=image, u=u: _apply(
                        name, image, level, u, limits
                    )
                    for name, level in distinct
                ),
                lambda image=image: tf.identity(image),
            ],
        )
    return image


# TrivialAugment's wide space (arXiv 2103.10158), with the levels of torchvision's
# TrivialAugmentWide: (the largest level, whether its sign is random, operation on a level).
_BINS = 31
_TRIVIAL = {
    "Identity": (0.0, False, lambda image, level: tf.identity(image)),
    "ShearX": (0.99, True, image_ops.shear_x),
    "ShearY": (0.99, True, image_ops.shear_y),
    "TranslateX": (32.0, True, image_ops.translate_x),
    "TranslateY": (32.0, True, image_ops.translate_y),
    "Rotate": (135.0, True, image_ops.rotate),
    "Brightness": (0.99, True, lambda image, level: image_ops.brightness(image, 1 + level)),
    "Color": (0.99, True, lambda image, level: image_ops.color(image, 1 + level)),
    "Contrast": (0.99, True, lambda image, level: image_ops.mean_contrast(image, 1 + level)),
    "Sharpness": (0.99, True, lambda image, level: image_ops.sharpness(image, 1 + level)),
    "Posterize": (
        6.0,
        False,
        lambda image, level: image_ops.posterize(image, 8 - tf.cast(tf.round(level), tf.int32)),
    ),
    "Solarize": (
        255.0,
        False,
        lambda image, level: image_ops.solarize(image, tf.math.ceil(255 - level)),
    ),
    "AutoContrast": (0.0, False, lambda image, level: image_ops.autocontrast(image)),
    "Equalize": (0.0, False, lambda image, level: image_ops.equalize(image)),
}


def trivialaugment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The image, uint8 (height, width, 3), after one random operation at a random level.

    TrivialAugment, wide (arXiv 2103.10158): 14 operations, each as likely, at one of 31 levels.
    Pixels from outside the image are gray, and translations shrink for images below 128 pixels, as
    in the other policies.
    """
    u = tf.random.stateless_uniform([3], seed)
    level = tf.floor(u[1] * _BINS) / (_BINS - 1)
    branches = []
    for name, (largest, signed, operation) in _TRIVIAL.items():
        if name.startswith("Translate"):
            largest = _pixels(largest, 1.0, image)
        branches.append(
            lambda operation=operation, largest=largest, signed=signed: operation(
                image, _signed(largest * level, u[2]) if signed else largest * level
            )
        )
    return tf.switch_case(tf.cast(u[0] * len(branches), tf.int32), branches)


def color_jitter(image: tf.Tensor, seed: tf.Tensor, *, strength: float) -> tf.Tensor:
    """The image with brightness, contrast and saturation each times [1 - strength, 1 + strength].

    The factors are uniform, and applied in this order; the hue does not change.
    """
    factors = 1 + strength * (2 * tf.random.stateless_uniform([3], seed) - 1)
    image = image_ops.brightness(image, factors[0])
    image = image_ops.mean_contrast(image, factors[1])
    return image_ops.color(image, factors[2])


def random_vertical_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The image, upside down with probability 0.5."""
    turned = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(turned, lambda: tf.reverse(image, [0]), lambda: image)


def random_quarter_turn(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The square image, turned by 0, 90, 180 or 270 degrees, each as likely."""
    turns = tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32)
    return tf.ensure_shape(tf.image.rot90(image, turns), image.shape)


def random_cutout(image: tf.Tensor, seed: tf.Tensor, *, half_side: float) -> tf.Tensor:
    """The square image with random pixels in a square around a random center.

    `half_side` is half the side of the square, as a fraction of the image's side; the square is
    clipped at the border. The pixels are in [128, 256), as in the official fine-tuning, where they
    are in [0, 1) of images in [-1, 1] (preprocessing.py).
    """
    half = int(half_side * image.shape[0])
    begin, end = image_ops.square(image, half, tf.random.stateless_uniform([2], seed))
    return _random_pixels(image, image_ops.second_seed(seed), begin, end, low=128)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, *, probability: float) -> tf.Tensor:
    """The square image, with `probability` with a rectangle of random pixels (arXiv 1708.04896).

    The area of the rectangle is uniform in [0.02, 0.33] of the image's and its aspect ratio in
    [0.3, 1 / 0.3]; a side longer than the image's is clipped.
    """
    side = image.shape[0]
    u = tf.random.stateless_uniform([5], seed)
    area, aspect = side * side * (0.02 + 0.31 * u[1]), 0.3 + (1 / 0.3 - 0.3) * u[2]
    size = tf.sqrt(tf.stack([area * aspect, area / aspect]))
    size = tf.minimum(tf.cast(tf.round(size), tf.int32), side)
    begin = tf.cast(u[3:] * tf.cast(side - size + 1, tf.float32), tf.int32)
    return tf.cond(
        u[0] < probability,
        lambda: _random_pixels(image, image_ops.second_seed(seed), begin, begin + size, low=0),
        lambda: image,
    )


def _random_pixels(image, seed, begin, end, low):
    """The image with values in [low, 256) in the rectangle from (y, x) `begin` to before `end`."""
    pixels = tf.random.stateless_uniform(
        (end - begin) * tf.constant([1, 3]), seed, minval=low, maxval=256, dtype=tf.int32
    )
    return image_ops.paste(image, tf.cast(pixels, tf.uint8), begin)
