"""Augmentation of one uint8 image in the graph; every random draw is a function of a seed.

RandAugment with the operation list and the magnitudes of the official EfficientNet code, which are
AutoAugment's (arXiv 1805.09501, 1909.13719). The operations equal the official arithmetic to the
grey level (tests compare them with its output), with one exception that is on purpose: a solarize
threshold of 256 or more solarizes nothing, where the official code's wraps around.
"""

import tensorflow as tf

_FILL = 128  # grey, where a warp brings in pixels from outside
_MAX_LEVEL = 10.0
_TRANSLATE = 100.0  # pixels at level 10, of an image of 128 pixels a side or more
_CUTOUT = 40.0
_LEAST_SIZE = 128  # the papers' smallest; on smaller images so many pixels would leave nothing


def randaugment(image, seed, *, magnitude, layers):
    """A uint8 (height, width, 3) image after `layers` random operations at one magnitude (of 10).

    `seed` is an integer tensor of shape [2]; the same seed gives the same image.
    """
    draws = tf.random.experimental.stateless_split(seed, layers)
    for layer in range(layers):
        choice = tf.random.stateless_uniform(
            [], draws[layer], maxval=len(OPERATIONS), dtype=tf.int32
        )
        argument_seed = tf.random.experimental.stateless_fold_in(draws[layer], 1)
        image = tf.switch_case(
            choice,
            [_branch(operation, image, magnitude, argument_seed) for operation in OPERATIONS],
        )
    return image


def _branch(operation, image, magnitude, seed):
    return lambda: operation(image, magnitude / _MAX_LEVEL, seed)


def _pixels(most, level, image):
    """A distance in pixels: the papers' at their image sizes, in proportion below them."""
    return most * level * min(1.0, min(image.shape[:2]) / _LEAST_SIZE)


def _signed(value, seed):
    """The value with a random sign."""
    return tf.where(tf.random.stateless_uniform([], seed) < 0.5, -value, value)


# The operations: (image, level in units of the maximum, seed) -> image.


def _autocontrast(image, level, seed):
    return autocontrast(image)


def _equalize(image, level, seed):
    return equalize(image)


def _invert(image, level, seed):
    return 255 - image


def _rotate(image, level, seed):
    return rotate(image, _signed(30.0 * level, seed))


def _posterize(image, level, seed):
    return posterize(image, int(4 * level))


def _solarize(image, level, seed):
    return solarize(image, int(256 * level))


def _color(image, level, seed):
    return color(image, 1.8 * level + 0.1)


def _contrast(image, level, seed):
    return contrast(image, 1.8 * level + 0.1)


def _brightness(image, level, seed):
    return brightness(image, 1.8 * level + 0.1)


def _sharpness(image, level, seed):
    return sharpness(image, 1.8 * level + 0.1)


def _shear_x(image, level, seed):
    return shear_x(image, _signed(0.3 * level, seed))


def _shear_y(image, level, seed):
    return shear_y(image, _signed(0.3 * level, seed))


def _translate_x(image, level, seed):
    return translate_x(image, _signed(_pixels(_TRANSLATE, level, image), seed))


def _translate_y(image, level, seed):
    return translate_y(image, _signed(_pixels(_TRANSLATE, level, image), seed))


def _cutout(image, level, seed):
    return cutout(image, int(_pixels(_CUTOUT, level, image)), seed)


def _solarize_add(image, level, seed):
    return solarize_add(image, int(110 * level))


OPERATIONS = (
    *(_autocontrast, _equalize, _invert, _rotate, _posterize, _solarize, _color, _contrast),
    *(_brightness, _sharpness, _shear_x, _shear_y, _translate_x, _translate_y, _cutout),
    _solarize_add,
)


# The arithmetic, with the argument that each operation is published with.


def autocontrast(image):
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255."""
    pixels = tf.cast(image, tf.float32)
    low, high = tf.reduce_min(pixels, [0, 1]), tf.reduce_max(pixels, [0, 1])
    scale = tf.math.divide_no_nan(255.0, high - low)
    stretched = tf.clip_by_value(pixels * scale - low * scale, 0.0, 255.0)
    return tf.where(high > low, tf.cast(stretched, tf.uint8), image)


def equalize(image):
    """Each channel's histogram made flat."""
    return tf.stack([_equalize_channel(image[:, :, c]) for c in range(3)], axis=-1)


def _equalize_channel(channel):
    values = tf.cast(channel, tf.int32)
    histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
    last = tf.reduce_max(values)  # the brightest value that occurs
    step = (tf.reduce_sum(histogram) - histogram[last]) // 255
    table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return tf.cond(
        step == 0,
        lambda: channel,
        lambda: tf.cast(tf.gather(tf.clip_by_value(table, 0, 255), values), tf.uint8),
    )


def posterize(image, bits):
    """Only the highest `bits` bits kept; 0 keeps one, as the official code's clamped shift does."""
    shift = tf.constant(min(8 - bits, 7), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def solarize(image, threshold):
    """Pixels from `threshold` up inverted; none from 256 up."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image, addition, threshold=128):
    """`addition` added to the pixels below `threshold`."""
    added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
    return tf.where(image < threshold, tf.cast(added, tf.uint8), image)


def color(image, factor):
    """From grey (0) over the image (1) to more colourful."""
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
    return _blend(grey, image, factor)


def contrast(image, factor):
    """From one grey value (0) over the image (1) to more contrast.

    The grey value is the official code's: the pixel count over 256, at most 255 (not the mean).
    """
    pixels = image.shape[0] * image.shape[1]
    grey = tf.fill(tf.shape(image), tf.cast(min(pixels / 256, 255.0), tf.uint8))
    return _blend(grey, image, factor)


def brightness(image, factor):
    """From black (0) over the image (1) to brighter."""
    return _blend(tf.zeros_like(image), image, factor)


def sharpness(image, factor):
    """From smoothed (0) over the image (1) to sharpened; the border stays."""
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    pixels = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(pixels, kernel, [1, 1, 1, 1], "VALID")[0]
    smooth = tf.cast(tf.clip_by_value(smooth, 0.0, 255.0), tf.uint8)
    inside = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.where(inside == 1, tf.pad(smooth, [[1, 1], [1, 1], [0, 0]]), image)
    return _blend(smooth, image, factor)


def _blend(zero, one, factor):
    zero, one = tf.cast(zero, tf.float32), tf.cast(one, tf.float32)
    return tf.cast(tf.clip_by_value(zero + factor * (one - zero), 0.0, 255.0), tf.uint8)


def rotate(image, degrees):
    """Rotated about the centre, counter-clockwise for positive degrees."""
    radians = tf.convert_to_tensor(degrees, tf.float32) * (3.14159265358979 / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = image.shape[0] - 1.0, image.shape[1] - 1.0
    x = (width - (cos * width - sin * height)) / 2
    y = (height - (sin * width + cos * height)) / 2
    return _warp(image, [cos, -sin, x, sin, cos, y])


def shear_x(image, slope):
    """Rows shifted in proportion to their number."""
    return _warp(image, [1.0, slope, 0.0, 0.0, 1.0, 0.0])


def shear_y(image, slope):
    """Columns shifted in proportion to their number."""
    return _warp(image, [1.0, 0.0, 0.0, slope, 1.0, 0.0])


def translate_x(image, pixels):
    """Shifted right by -pixels, as the official code's sign has it."""
    return _warp(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0])


def translate_y(image, pixels):
    """Shifted down by -pixels, as the official code's sign has it."""
    return _warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels])


def _warp(image, affine):
    """Output pixel (x, y) is input pixel affine (x, y), nearest; grey from outside."""
    rows = [tf.convert_to_tensor(a, tf.float32) for a in affine] + [tf.zeros([])] * 2
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(rows)[None],
        output_shape=image.shape[:2],
        fill_value=float(_FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def cutout(image, half, seed):
    """A grey square of twice `half` pixels a side around a random centre, cut at the border."""
    height, width = image.shape[0], image.shape[1]
    at = tf.random.stateless_uniform([2], seed)
    rows = tf.abs(tf.range(height) - tf.cast(at[0] * height, tf.int32))[:, None]
    columns = tf.abs(tf.range(width) - tf.cast(at[1] * width, tf.int32))[None, :]
    hit = tf.logical_and(rows < half, columns < half)[:, :, None]
    return tf.where(hit, tf.cast(_FILL, tf.uint8), image)
