"""Batches of training and evaluation images: index-based, without state.

The order of an epoch is a keyed permutation of (seed, epoch), and what happens to an example is a
function of (seed, position in the run). Any number of hosts so sees the same global order, and
starting at step N costs no more than starting at 0.
"""

import tensorflow as tf

from tpu_train.input_pipeline import augmentation

_no_autograph = tf.autograph.experimental.do_not_convert  # nothing to convert, much to trace

# What a seed is drawn for, so that no two draws of an example are the same numbers.
_CROP, _FLIP, _POLICY, _CUTOUT, _ERASING, _MIXING, _PAIR, _PURPOSES = range(8)


def training_batches(source, recipe, phase, *, first_step, end_step, replicas, host=0, hosts=1):
    """A dataset of one host's share of steps [first_step, end_step), a batch a replica and step.

    An element is ``{"image": uint8 (batch, size, size, 3), "label": int32 (batch,)}``; the label is
    (batch, labels), padded with -1, where images have several. Where the phase has mixup, there is
    ``"mix"``, float32 (batch,): an image's own weight over its neighbour's (2i and 2i + 1 are
    neighbours). Where it has CutMix, there is ``"box"``, int32 (batch, 4): y, x, height, width of
    the rectangle that comes from the neighbour. With ``augment="keras_cv"`` images and labels come
    mixed: ``{"image", "target": float32 (batch, classes)}``, and are not the same in another run.
    """
    per_host, per_replica = phase.batch_size // hosts, phase.batch_size // replicas
    first = phase.first_example + (first_step - phase.first_step) * phase.batch_size
    labels = tf.constant(source.labels)
    run = tf.constant(recipe.seed, tf.int64)

    @_no_autograph
    def example(k):
        place = _place(k % per_host, phase, replicas, host, hosts)
        position = first + (k // per_host) * phase.batch_size + place

        def seed(purpose, position=position):
            return tf.stack([run, position * _PURPOSES + purpose])

        index = _index(source, run, position)
        element = {
            "image": _train_image(source, recipe, phase, index, seed),
            "label": labels[index],
        }
        if recipe.augment != "keras_cv":
            element.update(
                augmentation.mixing(
                    seed(_MIXING),
                    seed(_PAIR, position - place % 2),
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
        batches = batches.map(
            augmentation.keras_cv_layers(recipe, phase, len(source.classes)), tf.data.AUTOTUNE
        )
    return batches.prefetch(2)


def _index(source, run, position):
    """Which image is at a position of the run: a permutation of all for every epoch."""
    epoch, number = position // source.examples, position % source.examples
    order = tf.stack([run, epoch])
    return tf.random.experimental.index_shuffle(number, order, source.examples - 1)


def images_of_steps(source, recipe, phase, first_step, end_step):
    """The indices of the images of steps [first_step, end_step) of a phase, in their order."""
    first = phase.first_example + (first_step - phase.first_step) * phase.batch_size
    end = phase.first_example + (end_step - phase.first_step) * phase.batch_size
    run = tf.constant(recipe.seed, tf.int64)
    positions = tf.data.Dataset.range(first, end)
    return [int(i) for i in positions.map(lambda p: _index(source, run, p)).as_numpy_iterator()]


def _place(own, phase, replicas, host, hosts):
    """Where in the global batch a host's image number `own` of a step is.

    A batch that is computed in parts has the images of a part beside each other, over all replicas:
    so which images share batch norm's statistics does not follow from the number of replicas.
    """
    per_replica = phase.batch_size // replicas
    part = per_replica // phase.accumulation
    replica, within = host * (replicas // hosts) + own // per_replica, own % per_replica
    return within // part * (part * replicas) + replica * part + within % part


def _train_image(source, recipe, phase, index, seed):
    stored = source.read(index)
    shape = source.shape(stored)
    if recipe.random_crop_min_area < 1:
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
        window = tf.concat([begin[:2], size[:2]], 0)
    else:
        window = tf.concat([[0, 0], shape[:2]], 0)
    image = _resize(source.crop(stored, window), phase.image_size, recipe.interpolation)
    if recipe.flip:
        left = tf.random.stateless_uniform([], seed(_FLIP)) < 0.5
        image = tf.cond(left, lambda: tf.reverse(image, [1]), lambda: image)
    if recipe.augment == "autoaugment":
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
        image = augmentation.cutout_noise(image, seed(_CUTOUT), share=recipe.cutout)
    if recipe.random_erasing_prob:
        image = augmentation.random_erasing(
            image, seed(_ERASING), probability=recipe.random_erasing_prob
        )
    return tf.ensure_shape(image, [phase.image_size, phase.image_size, 3])


def _resize(image, size, interpolation):
    """Without antialias, as the official code; uint8, of a static shape."""
    pixels = tf.image.resize(tf.ensure_shape(image, [None, None, 3]), [size, size], interpolation)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def evaluation_batches(
    source, size, batch_size, *, replicas, crop=0.0, interpolation="bilinear", host=0, hosts=1
):
    """A dataset of one host's share of every image once, padded with copies to whole batches.

    An element is ``{"image": uint8 (batch, size, size, 3), "label": int32, as in training,
    "weight": float32 (batch,)}``: `weight` is 1, and 0 for the padding. The image is the centre
    square of ``int(crop * shorter side)`` pixels, the whole one, stretched, for a `crop` of 0.
    """
    labels = tf.constant(source.labels)
    per_host, per_replica = batch_size // hosts, batch_size // replicas
    batches = -(-source.examples // batch_size)

    @_no_autograph
    def example(k):
        position = (k // per_host) * batch_size + host * per_host + k % per_host
        real = position < source.examples
        index = tf.where(real, position, 0)
        stored = source.read(index)
        window = _evaluation_window(source.shape(stored)[:2], crop)
        image = _resize(source.crop(stored, window), size, interpolation)
        return {
            "image": tf.ensure_shape(image, [size, size, 3]),
            "label": labels[index],
            "weight": tf.cast(real, tf.float32),
        }

    return (
        tf.data.Dataset.range(batches * per_host)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(per_replica, drop_remainder=True)
        .prefetch(2)
    )


def _evaluation_window(shape, crop):
    """(y, x, height, width) of what evaluation sees: keras_effnet.preprocess' arithmetic."""
    if not crop:
        return tf.concat([[0, 0], shape], 0)
    shorter = tf.cast(tf.reduce_min(shape), tf.float64)  # Python's float: int() comes out the same
    side = tf.maximum(1, tf.cast(tf.constant(crop, tf.float64) * shorter, tf.int32))
    return tf.concat([(shape - side + 1) // 2, [side, side]], 0)
