"""Stateless, index-based batches of training and evaluation images.

The order of an epoch is a keyed permutation of (seed, epoch), and the augmentation of an image is a
function of (seed, position in the run). So any number of hosts sees the same global order, and
starting at step N costs no more than starting at step 0.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tpu_train.input_pipeline import augmentation, keras_cv_layers, mixup
from tpu_train.input_pipeline.image_ops import second_seed
from tpu_train.input_pipeline.image_source import ImageSource, without_exif
from tpu_train.recipes.phases import Phase, rows_of
from tpu_train.recipes.schema import Recipe

_no_autograph = tf.autograph.experimental.do_not_convert  # no Python control flow; saves tracing

# Purposes of the random numbers of an example; each has its own seed, so no draw is used twice.
# Another purpose would change the seeds of all, so new ones draw from second seeds of these.
_CROP, _FLIP, _POLICY, _CUTOUT, _ERASING, _MIXING, _PAIR, _PURPOSES = range(8)


def batch_spec(phase: Phase, batch_size: int) -> dict[str, tf.TensorSpec]:
    """The keys, shapes and dtypes of a replica's training batch, for images with one label each."""
    size = phase.image_size
    keys = [key for key, alpha in _mixing_alphas(phase).items() if alpha]
    draws = {key: mixup.DRAWS[key] for key in keys}
    return {
        "image": tf.TensorSpec([batch_size, size, size, 3], tf.uint8),
        "label": tf.TensorSpec([batch_size], tf.int32),
        **{k: tf.TensorSpec([batch_size, *shape], dtype) for k, (shape, dtype) in draws.items()},
    }


def _mixing_alphas(phase):
    return {mixup.MIXUP_KEY: phase.mixup, mixup.CUTMIX_KEY: phase.cutmix}


def training_batches(
    source: ImageSource,
    recipe: Recipe,
    phase: Phase,
    *,
    first_step: int,
    end_step: int,
    replicas: int,
    host: int = 0,
    hosts: int = 1,
) -> tf.data.Dataset:
    """One host's batches of steps [first_step, end_step): for every step one batch per replica.

    An element is as in :func:`batch_spec`. For images with several labels, ``"label"`` is int32
    (batch, labels), padded with -1. ``"mix"`` and ``"box"`` exist if the phase has mixup and
    CutMix; :func:`tpu_train.input_pipeline.mixup.apply_mixing` applies them. With
    ``augment="keras_cv"`` images and labels are already mixed, ``{"image", "target": float32
    (batch, classes)}``, and another run gets different ones.

    Of a phase with pseudo-labeled images, those are read from ``source.unlabeled``, and their rows
    are spread evenly over the batch. ``"scores"``, float32 (batch, classes), are then their soft
    labels, and 0 for labeled images; ``"label"`` is their best class.
    """
    per_host, per_replica = phase.images // hosts, phase.images // replicas
    first_image = _images_before(phase, first_step)
    labels = tf.constant(source.labels)
    run_seed = tf.constant(recipe.seed, tf.int64)
    source, unlabeled = (
        without_exif(images) if recipe.ignore_exif and images else images
        for images in (source, source.unlabeled)
    )

    @_no_autograph
    def example(k):
        step = first_step + k // per_host
        row = _global_row(k % per_host, phase, replicas, host, hosts)
        position = first_image + (k // per_host) * phase.images + row

        def seed(purpose, position=position):
            return tf.stack([run_seed, position * _PURPOSES + purpose])

        def labeled_image():
            index = _index(source, run_seed, _labeled_position(phase, step, row))
            pixels = _read_crop(source, recipe, source.read(index), seed)
            return {"image": pixels, "label": labels[index]}

        def unlabeled_image():
            index = _unlabeled_index(unlabeled, run_seed, _unlabeled_position(phase, step, row))
            stored, scores = unlabeled.read_scored(index)
            pixels = _read_crop(unlabeled, recipe, stored, seed)
            label = tf.argmax(scores, output_type=tf.int32)
            return {"image": pixels, "label": label, "scores": scores}

        if phase.unlabeled:
            no_scores = tf.zeros([len(source.classes)])
            element = tf.cond(
                phase.is_labeled(row),
                lambda: {**labeled_image(), "scores": no_scores},
                unlabeled_image,
            )
        else:
            element = labeled_image()
        element["image"] = _augment(element["image"], recipe, phase, seed)
        if recipe.augment != "keras_cv":
            element.update(
                mixup.draw_mixing(
                    seed(_MIXING),
                    seed(_PAIR, position - row % 2),
                    phase.image_size,
                    mixup=phase.mixup,
                    cutmix=phase.cutmix,
                )
            )
        return element

    batches = (
        tf.data.Dataset.range((end_step - first_step) * per_host)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(per_replica, drop_remainder=True)
    )
    if recipe.augment == "keras_cv":
        augment = keras_cv_layers.make_augmentation(recipe, phase, len(source.classes))
        batches = batches.map(augment, tf.data.AUTOTUNE)
    return batches.prefetch(2)


def _index(source, run_seed, position):
    """The index of the image at a position of the run; every epoch is a permutation of all."""
    epoch, number = position // source.examples, position % source.examples
    epoch_seed = tf.stack([run_seed, epoch])
    return tf.random.experimental.index_shuffle(number, epoch_seed, source.examples - 1)


def _images_before(phase, step):
    """The number of images of the run before a step of the phase."""
    before = phase.first_example + phase.first_unlabeled
    return before + (step - phase.first_step) * phase.images


def _labeled_position(phase, step, row):
    """The position in the labeled images of the run of a labeled row of a step."""
    before = phase.first_example + (step - phase.first_step) * phase.batch_size
    return before + phase.labeled_before(row)


def _unlabeled_position(phase, step, row):
    """The position in the pseudo-labeled images of the run of another row of a step."""
    before = phase.first_unlabeled + (step - phase.first_step) * phase.unlabeled
    return before + row - phase.labeled_before(row)


def _unlabeled_index(unlabeled, run_seed, position):
    """As :func:`_index`, in an order that does not depend on that of the labeled images."""
    other_seed = second_seed(tf.stack([run_seed, run_seed]))[0]
    return _index(unlabeled, tf.cast(other_seed, tf.int64), position)


def images_of_steps(
    source: ImageSource, recipe: Recipe, phase: Phase, first_step: int, end_step: int
) -> list[int]:
    """The indices of the labeled images of steps [first_step, end_step) of a phase, in their
    order.
    """
    first = phase.first_example + (first_step - phase.first_step) * phase.batch_size
    end = phase.first_example + (end_step - phase.first_step) * phase.batch_size
    return _indices(functools.partial(_index, source), recipe, first, end)


def unlabeled_of_steps(
    unlabeled: ImageSource, recipe: Recipe, phase: Phase, first_step: int, end_step: int
) -> list[int]:
    """As :func:`images_of_steps`, of the pseudo-labeled images."""
    first = phase.first_unlabeled + (first_step - phase.first_step) * phase.unlabeled
    end = phase.first_unlabeled + (end_step - phase.first_step) * phase.unlabeled
    return _indices(functools.partial(_unlabeled_index, unlabeled), recipe, first, end)


def _indices(index, recipe, first, end):
    run_seed = tf.constant(recipe.seed, tf.int64)
    indices = tf.data.Dataset.range(first, end).map(lambda position: index(run_seed, position))
    return [int(i) for i in indices.as_numpy_iterator()]


def _global_row(local_row, phase, replicas, host, hosts):
    """The row of the global batch at row `local_row` of a host's batches of one step.

    A host's batches are those of its replicas, one after the other; a replica's batch is its rows
    of all accumulation steps.
    """
    per_replica = phase.images // replicas
    replica, row = host * (replicas // hosts) + local_row // per_replica, local_row % per_replica
    rows = per_replica // phase.accumulation
    first, _ = rows_of(replica, row // rows, phase, replicas)
    return first + row % rows


def _read_crop(source, recipe, stored, seed):
    """uint8 (height, width, 3): the random crop of a stored image."""
    return source.crop(stored, _crop_window(source.shape(stored), recipe, seed))


def _augment(image, recipe, phase, seed):
    """uint8 (size, size, 3): a crop resized, flipped and augmented, each with its own seed."""
    image = _resize(image, phase.image_size, recipe.interpolation)
    if recipe.flip:
        left = tf.random.stateless_uniform([], seed(_FLIP)) < 0.5
        image = tf.cond(left, lambda: tf.reverse(image, [1]), lambda: image)
    if recipe.vertical_flip:
        image = augmentation.random_vertical_flip(image, second_seed(seed(_FLIP), 1))
    if recipe.quarter_turns:
        image = augmentation.random_quarter_turn(image, second_seed(seed(_FLIP), 2))
    if recipe.color_jitter:
        image = augmentation.color_jitter(
            image, second_seed(seed(_POLICY)), strength=recipe.color_jitter
        )
    if recipe.augment == "trivialaugment":
        image = augmentation.trivialaugment(image, seed(_POLICY))
    elif recipe.augment == "autoaugment":
        image = augmentation.autoaugment(image, seed(_POLICY), solarize_wraps=recipe.solarize_wraps)
    elif recipe.augment == "randaugment" and phase.magnitude and recipe.randaugment_layers:
        image = augmentation.randaugment(
            image,
            seed(_POLICY),
            magnitude=phase.magnitude,
            layers=recipe.randaugment_layers,
            solarize_wraps=recipe.solarize_wraps,
        )
    if recipe.cutout:
        image = augmentation.random_cutout(image, seed(_CUTOUT), half_side=recipe.cutout)
    if recipe.random_erasing_prob:
        image = augmentation.random_erasing(
            image, seed(_ERASING), probability=recipe.random_erasing_prob
        )
    return tf.ensure_shape(image, [phase.image_size, phase.image_size, 3])


def _crop_window(shape, recipe, seed):
    """(y, x, height, width) of the random crop."""
    if recipe.random_crop_min_area >= 1:
        return tf.concat([[0, 0], shape[:2]], 0)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed(_CROP),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(recipe.random_crop_min_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def _resize(image, size, interpolation):
    """uint8 of a static shape; without antialiasing, as in the official code."""
    pixels = tf.image.resize(tf.ensure_shape(image, [None, None, 3]), [size, size], interpolation)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def evaluation_batches(
    source: ImageSource,
    size: int,
    batch_size: int,
    *,
    replicas: int,
    crop: float = 0.0,
    interpolation: str = "bilinear",
    ignore_exif: bool = False,
    host: int = 0,
    hosts: int = 1,
) -> tf.data.Dataset:
    """One host's batches of an evaluation that has every image once; the last is padded.

    An element is ``{"image": uint8 (batch, size, size, 3), "label": int32, as in training,
    "weight": float32 (batch,), "index": int64 (batch,)}``; `weight` is 1 for images and 0 for
    padding, `index` the number of the image and -1 for padding. An image is the
    center square of ``int(crop * shorter side)`` pixels, or the full image, stretched, for a `crop`
    of 0. It is turned upright by its EXIF rotation, unless `ignore_exif`.
    """
    source = without_exif(source) if ignore_exif else source
    labels = tf.constant(source.labels)
    per_host, per_replica = batch_size // hosts, batch_size // replicas
    batches = -(-source.examples // batch_size)

    @_no_autograph
    def example(k):
        position = (k // per_host) * batch_size + host * per_host + k % per_host
        is_image = position < source.examples
        index = tf.where(is_image, position, 0)
        stored = source.read(index)
        window = _evaluation_window(source.shape(stored)[:2], crop)
        image = _resize(source.crop(stored, window), size, interpolation)
        return {
            "image": tf.ensure_shape(image, [size, size, 3]),
            "label": labels[index],
            "weight": tf.cast(is_image, tf.float32),
            "index": tf.where(is_image, position, -1),
        }

    return (
        tf.data.Dataset.range(batches * per_host)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(per_replica, drop_remainder=True)
        .prefetch(2)
    )


def _evaluation_window(shape, crop):
    """(y, x, height, width) of the center crop, as in keras_effnet.preprocess."""
    if not crop:
        return tf.concat([[0, 0], shape], 0)
    shorter = tf.cast(tf.reduce_min(shape), tf.float64)  # as Python's float, so int() is the same
    side = tf.maximum(1, tf.cast(tf.constant(crop, tf.float64) * shorter, tf.int32))
    return tf.concat([(shape - side + 1) // 2, [side, side]], 0)
