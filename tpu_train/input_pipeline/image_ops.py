"""The pixel arithmetic of RandAugment and AutoAugment on one uint8 image, in the graph.

Every operation takes the argument that it is published with, and equals the official EfficientNet
code's output to the grey level (google/automl efficientnetv2/autoaugment.py; the tests compare),
with two exceptions that are on purpose: see :func:`solarize` and :func:`sharpness`. Images are
uint8 (height, width, 3) of a static shape.

On a CPU TensorFlow gathers and selects single bytes several times slower than it does arithmetic on
float32 (docs/results/input-pipeline.md has every operation's time). So masks are arithmetic here,
rows of pixels are matrices of (height, width * 3), and only what is a table by nature is gathered,
by ``tf.gather_nd``.
"""

import math

import numpy as np
import tensorflow as tf

_LUMA = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale's
FILL = 128  # grey, where a warp brings in pixels from outside


def autocontrast(image):
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255."""
    low, high = (
        tf.cast(reduce(image, [0, 1]), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    flat = tf.cast(low == high, tf.float32)  # a channel of one value stays as it is
    scale = tf.math.divide_no_nan(255.0, high - low) + flat
    offset = -low * scale * (1 - flat)
    stretched = _rows(image) * _row_of(scale, image) + _row_of(offset, image)
    return _pixels(tf.clip_by_value(stretched, 0.0, 255.0), image)


def equalize(image):
    """Each channel's histogram made flat."""
    rows = tf.cast(tf.reshape(image, [image.shape[0], -1]), tf.int32)
    entries = tf.reshape(rows + _row_of(tf.constant([0, 256, 512]), image), [-1])
    histogram = tf.raw_ops.DenseBincount(
        input=entries, size=3 * 256, weights=tf.zeros([0], tf.int32)
    )
    histogram = tf.reshape(histogram, [3, 256])
    grey = tf.range(256)[None]
    brightest = tf.reduce_max(grey * tf.cast(histogram > 0, tf.int32), 1, keepdims=True)
    others = tf.cast(grey < brightest, tf.int32) * histogram
    step = tf.reduce_sum(others, 1, keepdims=True) // 255
    table = (tf.cumsum(histogram, 1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.where(step == 0, grey, tf.minimum(table, 255))
    flat = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.reshape(tf.gather_nd(flat, entries[:, None]), image.shape)


def invert(image):
    """The negative."""
    return 255 - image


def posterize(image, bits):
    """Only the highest `bits` bits kept; 0 keeps one, as the official code's clamped shift does."""
    shift = max(0, min(8 - bits, 7))
    return tf.bitwise.bitwise_and(image, tf.constant(255 >> shift << shift, tf.uint8))


def solarize(image, threshold):
    """Pixels from `threshold` up inverted; none from 256 up.

    The official code's threshold of 256 or more wraps around in uint8 (256 inverts everything,
    384 is 128): give ``threshold % 256`` for that.
    """
    if threshold > 255:
        return image
    above = tf.cast(image >= tf.constant(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(255 - image, above - 1)  # 255 - (255 - x) is x


def solarize_add(image, addition, threshold=128):
    """`addition` added to the pixels below `threshold`."""
    pixels = tf.cast(image, tf.float32)
    below = tf.clip_by_value(threshold - pixels, 0.0, 1.0)  # the pixels are whole numbers
    return tf.cast(pixels + below * tf.minimum(float(addition), 255.0 - pixels), tf.uint8)


def color(image, factor):
    """From grey (0) over the image (1) to more colourful."""
    height, width = image.shape[0], image.shape[1]
    # One product makes the grey of several pixels, and three of each: faster than a product of
    # width 1 and a tile, and the same sums with zeros added.
    several = math.gcd(8, height * width)
    weights = np.kron(np.eye(several), np.repeat(np.array(_LUMA)[:, None], 3, 1))
    pixels = tf.reshape(tf.cast(image, tf.float32) * (1 / 255), [-1, 3 * several])
    grey = tf.cast(tf.matmul(pixels, weights.astype(np.float32)) * 255.5, tf.uint8)
    return _blend(tf.reshape(grey, image.shape), image, factor)


def contrast(image, factor):
    """From one grey value (0) over the image (1) to more contrast.

    The grey value is the official code's: the pixel count over 256, at most 255 (not the mean).
    """
    pixels = image.shape[0] * image.shape[1]
    return _blend(tf.constant(min(pixels // 256, 255), tf.uint8), image, factor)


def brightness(image, factor):
    """From black (0) over the image (1) to brighter."""
    return _blend(tf.constant(0, tf.uint8), image, factor)


def sharpness(image, factor):
    """From smoothed (0) over the image (1) to sharpened; the border stays.

    The smoothed pixel is a thirteenth of its neighbours and five times itself, rounded down. The
    official code sums in float32 in an order and a precision that hang on the processor (two of
    them differ in 0.3 % of the pixels), and so may have one grey level less where the sum is a
    multiple of 13; here the sum is exact.
    """
    rows = _rows(image)
    three = rows[:-2] + rows[1:-1] + rows[2:]
    total = three[:, :-6] + three[:, 3:-3] + three[:, 6:] + 4.0 * rows[1:-1, 3:-3]
    smooth = tf.cast((total + 0.5) * (1 / 13), tf.uint8)  # + 0.5: whole numbers divide exactly
    inside = tf.reshape(image, [image.shape[0], -1])[1:-1, 3:-3]
    return paste(image, _blend(smooth, inside, factor), (1, 1))


def _blend(zero, one, factor):
    zero, one = tf.cast(zero, tf.float32), tf.cast(one, tf.float32)
    return tf.cast(tf.clip_by_value(zero + factor * (one - zero), 0.0, 255.0), tf.uint8)


def _rows(image):
    """The image as a float32 matrix (height, width * 3)."""
    return tf.cast(tf.reshape(image, [image.shape[0], -1]), tf.float32)


def _row_of(channels, image):
    return tf.tile(channels, [image.shape[1]])


def _pixels(rows, image):
    return tf.reshape(tf.cast(rows, tf.uint8), image.shape)


def rotate(image, degrees):
    """Rotated about the centre, counter-clockwise for positive degrees."""
    radians = tf.convert_to_tensor(degrees, tf.float32) * (3.14159265358979 / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = image.shape[0] - 1.0, image.shape[1] - 1.0
    x = (width - (cos * width - sin * height)) / 2
    y = (height - (sin * width + cos * height)) / 2
    across, down = _places(image)
    return _warp(image, (cos * across - sin * down) + x, (sin * across + cos * down) + y)


def shear_x(image, slope):
    """Rows shifted in proportion to their number."""
    across, down = _places(image)
    return _warp(image, across + slope * down, down)


def shear_y(image, slope):
    """Columns shifted in proportion to their number."""
    across, down = _places(image)
    return _warp(image, across, slope * across + down)


def translate_x(image, pixels):
    """Shifted right by -pixels, as the official code's sign has it."""
    return _shift(image, pixels, axis=1)


def translate_y(image, pixels):
    """Shifted down by -pixels, as the official code's sign has it."""
    return _shift(image, pixels, axis=0)


def _places(image):
    """The coordinates x (1, width) and y (height, 1) of every pixel."""
    height, width = image.shape[0], image.shape[1]
    return tf.range(width, dtype=tf.float32)[None, :], tf.range(height, dtype=tf.float32)[:, None]


def _warp(image, x, y):
    """Each output pixel is the nearest to (x, y); grey from outside.

    As ``ImageProjectiveTransformV3``, which takes 2.6 times as long.
    """
    height, width = image.shape[0], image.shape[1]
    x, y = tf.clip_by_value(_nearest(x), -1.0, width), tf.clip_by_value(_nearest(y), -1.0, height)
    index = tf.cast((y + 1.0) * (width + 2.0) + (x + 1.0), tf.int32)
    rows = tf.reshape(image, [height, width * 3])
    framed = tf.reshape(tf.pad(rows, [[1, 1], [3, 3]], constant_values=FILL), [-1, 3])
    return tf.reshape(tf.gather_nd(framed, tf.reshape(index, [-1, 1])), image.shape)


def _nearest(x):
    """Rounded, halves away from zero (tf.round takes them to even numbers)."""
    return tf.sign(x) * tf.floor(tf.abs(x) + 0.5)


def _shift(image, pixels, axis):
    """Output pixel x is input pixel x + `pixels`, to the nearest; grey from outside."""
    height, width = image.shape[0], image.shape[1]
    most = (height, width)[axis]
    # A row's first pixel decides for all: x + pixels has the same fraction, but for rounding.
    shift = tf.cast(tf.clip_by_value(_nearest(pixels), -most, most), tf.int32)
    if axis == 0:
        padding, begin = [[most, most], [0, 0]], [most + shift, 0]
    else:
        padding, begin = [[0, 0], [most * 3, most * 3]], [0, (most + shift) * 3]
    rows = tf.reshape(image, [height, width * 3])
    padded = tf.pad(rows, padding, constant_values=FILL)
    return tf.reshape(tf.slice(padded, begin, [height, width * 3]), image.shape)


def cutout(image, half, u):
    """A grey square of twice `half` pixels a side around a centre, cut at the border.

    `u` are two numbers of [0, 1): where the centre is.
    """
    begin, end = square(image, half, u)
    height, width = end[0] - begin[0], end[1] - begin[1]
    return paste(image, tf.fill([height, width * 3], tf.constant(FILL, tf.uint8)), begin)


def square(image, half, u):
    """(y, x) of the begin and the end of a square of twice `half` pixels a side, cut at the border.

    Its centre is at the shares `u`, two numbers of [0, 1), of the image's sides.
    """
    sides = tf.stack([image.shape[0], image.shape[1]])
    centre = tf.cast(u * tf.cast(sides, tf.float32), tf.int32)
    return tf.maximum(centre - half, 0), tf.minimum(centre + half, sides)


def paste(image, patch, begin):
    """The image with a patch, uint8 (h, w * 3), in it from (y, x) `begin`."""
    rows = tf.reshape(image, [image.shape[0], -1])
    y, x = begin[0], begin[1] * 3
    height, width = tf.shape(patch)[0], tf.shape(patch)[1]
    middle = rows[y : y + height]
    middle = tf.concat([middle[:, :x], patch, middle[:, x + width :]], 1)
    return tf.reshape(tf.concat([rows[:y], middle, rows[y + height :]], 0), image.shape)
