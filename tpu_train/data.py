"""Batches of training and evaluation images: index-based, without state.

The order of an epoch is a keyed permutation of (seed, epoch), and what happens to an example is a
function of (seed, position in the run). Any number of hosts so sees the same global order, and
starting at step N costs no more than starting at 0.
"""

import tensorflow as tf

from tpu_train.augment import randaugment


def training_batches(source, recipe, phase, *, first_step, end_step, replicas, host=0, hosts=1):
    """A dataset of one host's share of steps [first_step, end_step), a batch a replica and step.

    An element is ``{"image": uint8 (batch, size, size, 3), "label": int32 (batch,), "mix": float32
    (batch,)}``, where `mix` is the weight of an image over its neighbour's in mixup, 1 for none.
    """
    per_host, per_replica = phase.batch_size // hosts, phase.batch_size // replicas
    first = phase.first_example + (first_step - phase.first_step) * phase.batch_size
    labels = tf.constant(source.labels)
    seed = tf.constant(recipe.seed, tf.int64)

    def example(k):
        position = first + (k // per_host) * phase.batch_size + host * per_host + k % per_host
        epoch, place = position // source.examples, position % source.examples
        order = tf.stack([seed, epoch])
        index = tf.random.experimental.index_shuffle(place, order, source.examples - 1)
        # One draw each for crop, flip, RandAugment and mixup.
        draws = tf.random.experimental.stateless_split(tf.stack([seed, position]), num=4)
        image = _train_image(source, recipe, phase, index, draws)
        return {"image": image, "label": labels[index], "mix": _mix_weight(phase.mixup, draws[3])}

    return (
        tf.data.Dataset.range((end_step - first_step) * per_host)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(per_replica, drop_remainder=True)
        .prefetch(2)
    )


def _train_image(source, recipe, phase, index, draws):
    stored = source.read(index)
    shape = source.shape(stored)
    if recipe.crop_area_min < 1:
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4]),
            draws[0],
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(recipe.crop_area_min, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
    else:
        window = tf.concat([[0, 0], shape[:2]], 0)
    image = _resize(source.crop(stored, window), phase.image_size)
    if recipe.flip:
        left = tf.random.stateless_uniform([], draws[1]) < 0.5
        image = tf.cond(left, lambda: tf.image.flip_left_right(image), lambda: image)
    if phase.magnitude and recipe.randaugment_layers:
        image = randaugment(
            image, draws[2], magnitude=phase.magnitude, layers=recipe.randaugment_layers
        )
    return tf.ensure_shape(image, [phase.image_size, phase.image_size, 3])


def _resize(image, size):
    """Bilinear without antialias, as the official code; uint8, of a static shape."""
    pixels = tf.image.resize(tf.ensure_shape(image, [None, None, 3]), [size, size])
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def _mix_weight(alpha, seed):
    """max(l, 1 - l) for l of Beta(alpha, alpha): how much of an image stays in mixup."""
    if alpha == 0:
        return tf.ones([])
    gamma = tf.random.stateless_gamma([2], seed, alpha)
    share = gamma[0] / tf.maximum(gamma[0] + gamma[1], 1e-30)
    return tf.maximum(share, 1 - share)


def evaluation_batches(source, size, batch_size, *, replicas, host=0, hosts=1):
    """A dataset of one host's share of every image once, padded with copies to whole batches.

    An element is ``{"image", "label", "weight"}``: `weight` is 1, and 0 for the padding. The image
    is the whole one, resized bilinearly to `size` pixels a side.
    """
    labels = tf.constant(source.labels)
    per_host, per_replica = batch_size // hosts, batch_size // replicas
    batches = -(-source.examples // batch_size)

    def example(k):
        position = (k // per_host) * batch_size + host * per_host + k % per_host
        real = position < source.examples
        index = tf.where(real, position, 0)
        stored = source.read(index)
        window = tf.concat([[0, 0], source.shape(stored)[:2]], 0)
        return {
            "image": tf.ensure_shape(_resize(source.crop(stored, window), size), [size, size, 3]),
            "label": labels[index],
            "weight": tf.cast(real, tf.float32),
        }

    return (
        tf.data.Dataset.range(batches * per_host)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(per_replica, drop_remainder=True)
        .prefetch(2)
    )
