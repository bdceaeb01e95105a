"""RandAugment with the operations of the official EfficientNet code, as a baseline for timing.

An independent implementation of google/automl efficientnetv2/autoaugment.py with the same kinds of
TensorFlow operations: one condition per operation, channel by channel, `tf.where`, histograms of
fixed width, and warps by tensorflow-addons of an image with a fourth channel. Its outputs equal the
official ones in tests/golden (Sharpness on a processor with oneDNN's kernels). TensorFlow 2.15.
"""

import tensorflow as tf
import tensorflow_addons as tfa


def randaugment(image, layers, arguments):
    """The image after `layers` operations; each of the 16 has a condition, as in the original.

    `arguments` maps each operation to its argument at the selected magnitude.
    """
    operations = make_operations()
    for _ in range(layers):
        choice = tf.random.uniform([], maxval=len(operations), dtype=tf.int32)
        for i, (name, operation) in enumerate(operations.items()):
            argument = arguments[name]
            if name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
                negative = tf.cast(tf.floor(tf.random.uniform([]) + 0.5), tf.bool)
                argument = tf.cond(negative, lambda a=argument: -a, lambda a=argument: a)
            image = tf.cond(
                tf.equal(i, choice),
                lambda f=operation, x=image, a=argument: f(x, a),
                lambda x=image: x,
            )
    return image


def make_operations():
    """{name: (uint8 image, argument) -> image}, built as in the official code."""

    def by_channel(function):
        return lambda image, _: tf.stack([function(image[..., c]) for c in range(3)], 2)

    def blend(zero, one, factor):
        zero, one = tf.cast(zero, tf.float32), tf.cast(one, tf.float32)
        mixed = zero + factor * (one - zero)
        return tf.cast(mixed if factor < 1 else tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)

    def stretched(channel):
        low = tf.cast(tf.reduce_min(channel), tf.float32)
        high = tf.cast(tf.reduce_max(channel), tf.float32)

        def stretch():
            scale = 255.0 / (high - low)
            pixels = tf.cast(channel, tf.float32) * scale - low * scale
            return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)

        return tf.cond(high > low, stretch, lambda: channel)

    def equalized(channel):
        channel = tf.cast(channel, tf.int32)
        histogram = tf.histogram_fixed_width(channel, [0, 255], nbins=256)
        present = tf.reshape(tf.gather(histogram, tf.where(tf.not_equal(histogram, 0))), [-1])
        step = (tf.reduce_sum(present) - present[-1]) // 255

        def look_up():
            table = (tf.cumsum(histogram) + step // 2) // step
            table = tf.clip_by_value(tf.concat([[0], table[:-1]], 0), 0, 255)
            return tf.gather(table, channel)

        return tf.cast(tf.cond(tf.equal(step, 0), lambda: channel, look_up), tf.uint8)

    def contrast(image, factor):
        grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
        count = tf.reduce_sum(tf.histogram_fixed_width(grey, [0, 255], nbins=256))
        grey = tf.ones_like(grey, tf.float32) * (tf.cast(count, tf.float32) / 256.0)
        grey = tf.cast(tf.clip_by_value(grey, 0.0, 255.0), tf.uint8)
        return blend(tf.image.grayscale_to_rgb(grey), image, factor)

    def sharpness(image, factor):
        kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
        kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
        smooth = tf.nn.depthwise_conv2d(
            tf.cast(image, tf.float32)[None], kernel, [1, 1, 1, 1], "VALID"
        )
        smooth = tf.cast(tf.clip_by_value(smooth, 0.0, 255.0), tf.uint8)[0]
        border = [[1, 1], [1, 1], [0, 0]]
        inside = tf.equal(tf.pad(tf.ones_like(smooth), border), 1)
        return blend(tf.where(inside, tf.pad(smooth, border), image), image, factor)

    def posterize(image, bits):
        return tf.bitwise.left_shift(tf.bitwise.right_shift(image, 8 - bits), 8 - bits)

    def solarize_add(image, addition):
        added = tf.clip_by_value(tf.cast(image, tf.int64) + addition, 0, 255)
        return tf.where(image < 128, tf.cast(added, tf.uint8), image)

    def cutout(image, half):
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        y = tf.random.uniform([], 0, height, tf.int32)
        x = tf.random.uniform([], 0, width, tf.int32)
        around = [
            [tf.maximum(0, y - half), tf.maximum(0, height - y - half)],
            [tf.maximum(0, x - half), tf.maximum(0, width - x - half)],
        ]
        inside = [height - sum(around[0]), width - sum(around[1])]
        mask = tf.pad(tf.zeros(inside, image.dtype), around, constant_values=1)
        mask = tf.tile(mask[..., None], [1, 1, 3])
        return tf.where(tf.equal(mask, 0), tf.ones_like(image) * 128, image)

    def warped(warp):
        """The image with a channel of ones, so that what comes from outside is known by its 0."""

        def run(image, argument):
            shape = tf.shape(image)
            solid = tf.concat([image, tf.ones([shape[0], shape[1], 1], image.dtype)], 2)
            flat = tf.reshape(warp(solid, argument), [-1, 4])
            grey = tf.constant([128, 128, 128, 1], image.dtype)
            flat = tf.where(tf.equal(flat[:, 3:], 0), tf.ones_like(flat) * grey, flat)
            return tf.slice(
                tf.reshape(flat, [shape[0], shape[1], 4]), [0, 0, 0], [shape[0], shape[1], 3]
            )

        return run

    one, zero = 1.0, 0.0
    return {
        "AutoContrast": by_channel(stretched),
        "Equalize": by_channel(equalized),
        "Invert": lambda image, _: 255 - image,
        "Rotate": warped(lambda image, a: tfa.image.rotate(image, a * (3.14159265358979 / 180.0))),
        "Posterize": posterize,
        "Solarize": lambda image, a: tf.where(image < a, image, 255 - image),
        "Color": lambda image, a: blend(
            tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)), image, a
        ),
        "Contrast": contrast,
        "Brightness": lambda image, a: blend(tf.zeros_like(image), image, a),
        "Sharpness": sharpness,
        "ShearX": warped(
            lambda image, a: tfa.image.transform(image, [one, a, 0.0, 0.0, one, 0.0, 0.0, 0.0])
        ),
        "ShearY": warped(
            lambda image, a: tfa.image.transform(image, [one, 0.0, 0.0, a, one, 0.0, 0.0, 0.0])
        ),
        "TranslateX": warped(lambda image, a: tfa.image.translate(image, [-a, zero])),
        "TranslateY": warped(lambda image, a: tfa.image.translate(image, [zero, -a])),
        "Cutout": cutout,
        "SolarizeAdd": solarize_add,
    }
