"""What is done to a training image: RandAugment, AutoAugment, noise, and the draws of mixing.

Every random draw is a function of a seed, an integer tensor of shape [2]: the same seed gives the
same image. Images are uint8 (height, width, 3) of a static shape, in the graph.
"""

from dataclasses import dataclass

import tensorflow as tf

from tpu_train.input_pipeline import image_ops

_MAX_LEVEL = 10.0
_LEAST_SIZE = 128  # the papers' smallest; on smaller images so many pixels would leave nothing


@dataclass(frozen=True)
class Limits:
    """What an operation does at level 10, where the policies differ."""

    translate: float  # pixels, of an image of 128 pixels a side or more
    cutout: float  # pixels, half the side of the square
    solarize_wraps: bool = False  # the official code's overflow: threshold 256 is 0, 384 is 128


# google/automl efficientnetv2/autoaugment.py: translate_const and cutout_const
_RANDAUGMENT = Limits(translate=100.0, cutout=40.0)
_AUTOAUGMENT = Limits(translate=250.0, cutout=100.0)


def _pixels(most, level, image):
    """A distance in pixels: the papers' at their image sizes, in proportion below them."""
    return most * level * min(1.0, min(image.shape[:2]) / _LEAST_SIZE)


def _signed(value, chance):
    """The value with a random sign."""
    return tf.where(chance < 0.5, -value, value)


def _threshold(level, limits):
    threshold = int(256 * level)
    return threshold % 256 if limits.solarize_wraps else threshold


# (image, level as a share of the maximum, two uniform numbers of [0, 1), limits) -> image
OPERATIONS = {
    "AutoContrast": lambda image, level, u, most: image_ops.autocontrast(image),
    "Equalize": lambda image, level, u, most: image_ops.equalize(image),
    "Invert": lambda image, level, u, most: image_ops.invert(image),
    "Rotate": lambda image, level, u, most: image_ops.rotate(image, _signed(30.0 * level, u[0])),
    "Posterize": lambda image, level, u, most: image_ops.posterize(image, int(4 * level)),
    "Solarize": lambda image, level, u, most: image_ops.solarize(image, _threshold(level, most)),
    "Color": lambda image, level, u, most: image_ops.color(image, 1.8 * level + 0.1),
    "Contrast": lambda image, level, u, most: image_ops.contrast(image, 1.8 * level + 0.1),
    "Brightness": lambda image, level, u, most: image_ops.brightness(image, 1.8 * level + 0.1),
    "Sharpness": lambda image, level, u, most: image_ops.sharpness(image, 1.8 * level + 0.1),
    "ShearX": lambda image, level, u, most: image_ops.shear_x(image, _signed(0.3 * level, u[0])),
    "ShearY": lambda image, level, u, most: image_ops.shear_y(image, _signed(0.3 * level, u[0])),
    "TranslateX": lambda image, level, u, most: image_ops.translate_x(
        image, _signed(_pixels(most.translate, level, image), u[0])
    ),
    "TranslateY": lambda image, level, u, most: image_ops.translate_y(
        image, _signed(_pixels(most.translate, level, image), u[0])
    ),
    "Cutout": lambda image, level, u, most: image_ops.cutout(
        image, int(_pixels(most.cutout, level, image)), u
    ),
    "SolarizeAdd": lambda image, level, u, most: image_ops.solarize_add(image, int(110 * level)),
}


def _apply(name, image, level, u, most):
    return OPERATIONS[name](image, level / _MAX_LEVEL, u, most)


def randaugment(image, seed, *, magnitude, layers, solarize_wraps=False):
    """A uint8 (height, width, 3) image after `layers` random operations at one magnitude (of 10).

    The operations and their magnitudes are the official EfficientNet code's (arXiv 1909.13719).
    """
    most = Limits(_RANDAUGMENT.translate, _RANDAUGMENT.cutout, solarize_wraps)
    draws = tf.random.stateless_uniform([layers, 3], seed)
    for layer in range(layers):
        image = tf.switch_case(
            tf.cast(draws[layer, 0] * len(OPERATIONS), tf.int32),
            [
                lambda name=name, image=image, u=draws[layer, 1:]: _apply(
                    name, image, magnitude, u, most
                )
                for name in OPERATIONS
            ],
        )
    return image


# ImageNet's policy, arXiv 1805.09501 (appendix) as the official code has it (policy_v0): each image
# gets one of these pairs, and each of its operations with its probability, at its level.
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


def autoaugment(image, seed, *, solarize_wraps=False):
    """A uint8 (height, width, 3) image after AutoAugment's policy v0 for ImageNet."""
    most = Limits(_AUTOAUGMENT.translate, _AUTOAUGMENT.cutout, solarize_wraps)
    draws = tf.random.stateless_uniform([7], seed)
    pair = tf.cast(draws[0] * len(POLICY_V0), tf.int32)
    for place in range(2):
        happens, u = draws[1 + 3 * place], draws[2 + 3 * place : 4 + 3 * place]
        steps = [operations_of_pair[place] for operations_of_pair in POLICY_V0]
        # One branch for equal steps of several pairs: half as much to trace.
        distinct = sorted({(name, level) for name, _, level in steps})
        branch = tf.constant([distinct.index((name, level)) for name, _, level in steps])[pair]
        probability = tf.constant([probability for _, probability, _ in steps])[pair]
        image = tf.switch_case(
            tf.where(happens < probability, branch, len(distinct)),
            [
                *(
                    lambda name=name, level=level, image=image, u=u: _apply(
                        name, image, level, u, most
                    )
                    for name, level in distinct
                ),
                lambda image=image: tf.identity(image),
            ],
        )
    return image


def cutout_noise(image, seed, *, share):
    """A square image with a square of noise around a random centre, cut at the border.

    Half the square's side is `share` of the image's. The noise is of [128, 256), as in the official
    fine-tuning, whose pixels are of [-1, 1] and whose noise is of [0, 1) (preprocessing.py).
    """
    half = int(share * image.shape[0])
    begin, end = image_ops.square(image, half, tf.random.stateless_uniform([2], seed))
    return _noise(image, _other(seed), begin, end, least=128)


def random_erasing(image, seed, *, probability):
    """A square image, with `probability` with a rectangle of noise (arXiv 1708.04896).

    Its area is uniform over 0.02 to 0.33 of the image's, height over width over 0.3 to 1 / 0.3; a
    side that would be longer than the image's is cut.
    """
    side = image.shape[0]
    u = tf.random.stateless_uniform([5], seed)
    area, aspect = side * side * (0.02 + 0.31 * u[1]), 0.3 + (1 / 0.3 - 0.3) * u[2]
    size = tf.sqrt(tf.stack([area * aspect, area / aspect]))
    size = tf.minimum(tf.cast(tf.round(size), tf.int32), side)
    begin = tf.cast(u[3:] * tf.cast(side - size + 1, tf.float32), tf.int32)
    return tf.cond(
        u[0] < probability,
        lambda: _noise(image, _other(seed), begin, begin + size, least=0),
        lambda: image,
    )


def _noise(image, seed, begin, end, least):
    """Noise of [least, 256) in the rectangle from (y, x) `begin` to before `end`."""
    noise = tf.random.stateless_uniform(
        (end - begin) * tf.constant([1, 3]), seed, minval=least, maxval=256, dtype=tf.int32
    )
    return image_ops.paste(image, tf.cast(noise, tf.uint8), begin)


def _other(seed):
    return tf.random.experimental.stateless_fold_in(seed, 1)


# Mixing: only the draws. The device mixes the pixels and the labels (step.py).


def mixing(seed, pair_seed, size, *, mixup, cutmix):
    """The draws that an image of `size` pixels a side is mixed with its neighbour by, as a dict.

    ``"mix"``, where `mixup` (Beta's alpha) is above 0: float32, the image's own weight in mixup,
    in [0.5, 1]. ``"box"``, where `cutmix` is: int32 (y, x, height, width), the part that comes from
    the neighbour. With both, each pair of neighbours gets one of the two by a fair draw of
    `pair_seed`, and the other is without effect (weight 1, height and width 0).
    """
    draws = {}
    if mixup:
        share = _beta(seed, mixup)
        draws["mix"] = tf.maximum(share, 1 - share)
    if cutmix:
        draws["box"] = _box(_other(seed), size, cutmix)
    if mixup and cutmix:
        is_mixup = tf.random.stateless_uniform([], pair_seed) < 0.5
        draws["mix"] = tf.where(is_mixup, draws["mix"], 1.0)
        draws["box"] = tf.where(is_mixup, 0, draws["box"])
    return draws


def _beta(seed, alpha):
    """A draw of Beta(alpha, alpha), by the logarithms of two of gamma: 0.01 would vanish itself."""
    gamma = tf.random.stateless_gamma([2], seed, alpha + 1)
    u = tf.random.stateless_uniform([2], _other(seed), minval=1e-37)
    logarithm = tf.math.log(gamma) + tf.math.log(u) / alpha
    return tf.sigmoid(logarithm[0] - logarithm[1])


def _box(seed, size, alpha):
    """CutMix's rectangle (arXiv 1905.04899): 1 - Beta of the image's area, cut at the border."""
    half = tf.cast(tf.sqrt(1 - _beta(seed, alpha)) * size, tf.int32) // 2
    centre = tf.random.stateless_uniform([2], _other(_other(seed)), maxval=size, dtype=tf.int32)
    begin, end = tf.maximum(centre - half, 0), tf.minimum(centre + half, size)
    return tf.concat([begin, end - begin], 0)


# keras_cv instead of the above: its layers on whole batches.


def keras_cv_layers(recipe, phase, classes):
    """A function from a batch ``{"image", "label"}`` to ``{"image": uint8, "target": float32}``.

    keras_cv's RandAugment, then its MixUp or CutMix (with both, one of the two for the whole
    batch), at the phase's magnitude (10 and more are its 1.0) and alphas. `target` is that of
    :func:`targets`, mixed. keras_cv keeps the state of its random numbers to itself, so a run that
    goes on after a cut does not repeat it to the bit. Not inside ``strategy.scope()``. Raises
    ``ValueError`` where keras_cv cannot be imported.
    """
    layers = _keras_cv()
    steps, mixers = [], []
    if phase.magnitude and recipe.randaugment_layers:
        steps.append(
            layers.RandAugment(
                value_range=(0, 255),
                augmentations_per_image=recipe.randaugment_layers,
                magnitude=min(1.0, phase.magnitude / _MAX_LEVEL),
                seed=recipe.seed,
            )
        )
    if phase.mixup:
        mixers.append(layers.MixUp(alpha=phase.mixup, seed=recipe.seed))
    if phase.cutmix:
        mixers.append(layers.CutMix(alpha=phase.cutmix, seed=recipe.seed))
    if len(mixers) == 2:
        mixers = [layers.RandomChoice(mixers, batchwise=True, seed=recipe.seed)]
    steps += mixers

    def run(batch):
        mixed = {
            "images": tf.cast(batch["image"], tf.float32),
            "labels": targets(batch["label"], classes, recipe),
        }
        for step in steps:
            mixed = step(mixed, training=True)
        images = tf.clip_by_value(tf.round(mixed["images"]), 0, 255)
        return {
            "image": tf.ensure_shape(tf.cast(images, tf.uint8), batch["image"].shape),
            "target": tf.ensure_shape(mixed["labels"], [batch["image"].shape[0], classes]),
        }

    return run


def targets(labels, classes, recipe):
    """Soft labels, float32 (batch, classes), smoothed, of int32 labels (batch,) or, for images with
    several, (batch, most) padded with -1: then each has an equal part of the softmax loss's 1.

    >>> from tpu_train.recipes.table import find_recipe
    >>> print(targets(tf.constant([1, 3]), 4, find_recipe("digits")).numpy())
    [[0.0125 0.9625 0.0125 0.0125]
     [0.0125 0.0125 0.0125 0.9625]]
    """
    hot = tf.one_hot(labels, classes)  # -1, for no further label, is a row of zeros
    if labels.shape.rank == 2:
        hot = tf.reduce_max(hot, 1)
    if recipe.loss == "sigmoid":
        return hot * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if labels.shape.rank == 2:
        hot = tf.math.divide_no_nan(hot, tf.reduce_sum(hot, -1, keepdims=True))
    return hot * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes


def _keras_cv():
    try:
        import keras_cv
    except ImportError as error:
        raise ValueError(
            f"augment 'keras_cv' needs keras_cv, which cannot be imported here ({error}): install "
            "keras-cv, or give --augment=randaugment, this project's own"
        ) from error
    return keras_cv.layers
