"""Image operations of the augmentation policies on one uint8 image, in a TensorFlow graph.

Every operation takes its published argument and equals the official EfficientNet code exactly
(google/automl efficientnetv2/autoaugment.py; the tests compare), with two deliberate exceptions:
:func:`solarize` and :func:`sharpness`. :func:`mean_contrast` is Pillow's. Images are uint8
(height, width, 3) of a static shape.

On a CPU, TensorFlow gathers and selects single bytes several times slower than it computes in
float32 (docs/results/input-pipeline.md has the times). So masks are computed arithmetically, rows
of pixels are matrices (height, width * 3), and only lookup tables use ``tf.gather_nd``.
"""

import math

import numpy as np
import tensorflow as tf

_LUMA = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale's
FILL = 128  # gray, for pixels from outside the image


def autocontrast(image):
    """Stretches each channel so that its darkest pixel is 0 and its brightest is 255."""
    low, high = (
        tf.cast(reduce(image, [0, 1]), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    flat = tf.cast(low == high, tf.float32)  # a constant channel is unchanged
    scale = tf.math.divide_no_nan(255.0, high - low) + flat
    offset = -low * scale * (1 - flat)
    stretched = _rows(image) * _row_of(scale, image) + _row_of(offset, image)
    return _pixels(tf.clip_by_value(stretched, 0.0, 255.0), image)


def equalize(image):
    """Equalizes the histogram of each channel."""
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
    """Inverts every pixel."""
    return 255 - image


def posterize(image, bits):
    """Keeps the highest `bits` bits; 0 keeps one, as the clamped shift of the official code.

    `bits` may be a tensor.
    """
    shift = tf.clip_by_value(8 - bits, 0, 7)
    mask = tf.bitwise.left_shift(tf.bitwise.right_shift(255, shift), shift)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image, threshold):
    """Inverts pixels of at least `threshold`; a threshold of 256 or more inverts none.

    In the official code such a threshold overflows uint8 (256 inverts everything, 384 is 128):
    pass ``threshold % 256`` to reproduce it. `threshold` may be a tensor, of at most 255.
    """
    if not tf.is_tensor(threshold) and threshold > 255:
        return image
    above = tf.cast(image >= tf.cast(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(255 - image, above - 1)  # 255 - (255 - x) is x


def solarize_add(image, addition, threshold=128):
    """Adds `addition` to the pixels below `threshold`."""
    pixels = tf.cast(image, tf.float32)
    below = tf.clip_by_value(threshold - pixels, 0.0, 1.0)  # pixels are integers
    return tf.cast(pixels + below * tf.minimum(float(addition), 255.0 - pixels), tf.uint8)


def color(image, factor):
    """Blends gray (factor 0) and the image (factor 1); above 1 the color is enhanced."""
    return _blend(_grayscale(image), image, factor)


def _grayscale(image):
    """The gray value of every pixel, three copies of each: uint8 (height, width, 3)."""
    height, width = image.shape[0], image.shape[1]
    # One matrix product computes the gray value of several pixels, three copies of each: faster
    # than a product of width 1 and a tile, with the same sums (zeros are added).
    several = math.gcd(8, height * width)
    weights = np.kron(np.eye(several), np.repeat(np.array(_LUMA)[:, None], 3, 1))
    pixels = tf.reshape(tf.cast(image, tf.float32) * (1 / 255), [-1, 3 * several])
    grey = tf.cast(tf.matmul(pixels, weights.astype(np.float32)) * 255.5, tf.uint8)
    return tf.reshape(grey, image.shape)


def contrast(image, factor):
    """Blends a gray value (factor 0) and the image (factor 1); above 1 the contrast is enhanced.

    The gray value is the official code's: the pixel count / 256, at most 255 (not the mean).
    """
    pixels = image.shape[0] * image.shape[1]
    return _blend(tf.constant(min(pixels // 256, 255), tf.uint8), image, factor)


def mean_contrast(image, factor):
    """Blends the mean gray value (factor 0) and the image (factor 1), as Pillow's Contrast."""
    mean = tf.reduce_mean(tf.cast(_grayscale(image), tf.float32))
    return _blend(tf.floor(mean + 0.5), image, factor)


def brightness(image, factor):
    """Blends black (factor 0) and the image (factor 1); above 1 the image is brighter."""
    return _blend(tf.constant(0, tf.uint8), image, factor)


def sharpness(image, factor):
    """Blends the smoothed image (factor 0) and the image (factor 1); the border is unchanged.

    The smoothed pixel is (its 8 neighbors + 5 times itself) / 13, rounded down. The official code
    sums in float32, in an order and a precision that depend on the processor (two processors
    differ in 0.3 % of the pixels), so it may be one level lower where the sum is a multiple of 13;
    the sum here is exact.
    """
    rows = _rows(image)
    three = rows[:-2] + rows[1:-1] + rows[2:]
    total = three[:, :-6] + three[:, 3:-3] + three[:, 6:] + 4.0 * rows[1:-1, 3:-3]
    smooth = tf.cast((total + 0.5) * (1 / 13), tf.uint8)  # + 0.5: integers divide exactly
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
    """Rotates about the center, counter-clockwise for positive degrees."""
    radians = tf.convert_to_tensor(degrees, tf.float32) * (3.14159265358979 / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = image.shape[0] - 1.0, image.shape[1] - 1.0
    x = (width - (cos * width - sin * height)) / 2
    y = (height - (sin * width + cos * height)) / 2
    across, down = _coordinates(image)
    return _warp(image, (cos * across - sin * down) + x, (sin * across + cos * down) + y)


def shear_x(image, slope):
    """Shifts each row in proportion to its y coordinate."""
    across, down = _coordinates(image)
    return _warp(image, across + slope * down, down)


def shear_y(image, slope):
    """Shifts each column in proportion to its x coordinate."""
    across, down = _coordinates(image)
    return _warp(image, across, slope * across + down)


def translate_x(image, pixels):
    """Shifts right by -pixels (the sign of the official code)."""
    return _shift(image, pixels, axis=1)


def translate_y(image, pixels):
    """Shifts down by -pixels (the sign of the official code)."""
    return _shift(image, pixels, axis=0)


def _coordinates(image):
    """The coordinates x (1, width) and y (height, 1) of every pixel."""
    height, width = image.shape[0], image.shape[1]
    return tf.range(width, dtype=tf.float32)[None, :], tf.range(height, dtype=tf.float32)[:, None]


def _warp(image, x, y):
    """Output pixels are the input pixels nearest to (x, y), and gray outside the image.

    Equals ``ImageProjectiveTransformV3``, which takes 2.6 times as long.
    """
    height, width = image.shape[0], image.shape[1]
    x, y = tf.clip_by_value(_nearest(x), -1.0, width), tf.clip_by_value(_nearest(y), -1.0, height)
    index = tf.cast((y + 1.0) * (width + 2.0) + (x + 1.0), tf.int32)
    rows = tf.reshape(image, [height, width * 3])
    framed = tf.reshape(tf.pad(rows, [[1, 1], [3, 3]], constant_values=FILL), [-1, 3])
    return tf.reshape(tf.gather_nd(framed, tf.reshape(index, [-1, 1])), image.shape)


def _nearest(x):
    """Rounds halves away from zero (tf.round rounds them to even)."""
    return tf.sign(x) * tf.floor(tf.abs(x) + 0.5)


def _shift(image, pixels, axis):
    """Output pixel x is input pixel x + `pixels`, rounded; gray outside the image."""
    height, width = image.shape[0], image.shape[1]
    most = (height, width)[axis]
    # The shift of a row's first pixel holds for all: x + pixels has the same fraction.
    shift = tf.cast(tf.clip_by_value(_nearest(pixels), -most, most), tf.int32)
    if axis == 0:
        padding, begin = [[most, most], [0, 0]], [most + shift, 0]
    else:
        padding, begin = [[0, 0], [most * 3, most * 3]], [0, (most + shift) * 3]
    rows = tf.reshape(image, [height, width * 3])
    padded = tf.pad(rows, padding, constant_values=FILL)
    return tf.reshape(tf.slice(padded, begin, [height, width * 3]), image.shape)


def cutout(image, half, u):
    """Covers a square of `2 * half` pixels a side with gray, clipped at the border.

    `u` is the center: two numbers in [0, 1), as fractions of the image's sides.
    """
    begin, end = square(image, half, u)
    height, width = end[0] - begin[0], end[1] - begin[1]
    return paste(image, tf.fill([height, width * 3], tf.constant(FILL, tf.uint8)), begin)


def square(image, half, u):
    """(y, x) of the begin and end of a square of `2 * half` pixels a side, clipped at the border.

    `u` is the center: two numbers in [0, 1), as fractions of the image's sides.
    """
    sides = tf.stack([image.shape[0], image.shape[1]])
    center = tf.cast(u * tf.cast(sides, tf.float32), tf.int32)
    return tf.maximum(center - half, 0), tf.minimum(center + half, sides)


def paste(image, patch, begin):
    """The image with a patch, uint8 (h, w * 3), pasted at (y, x) `begin`."""
    rows = tf.reshape(image, [image.shape[0], -1])
    y, x = begin[0], begin[1] * 3
    height, width = tf.shape(patch)[0], tf.shape(patch)[1]
    middle = rows[y : y + height]
    middle = tf.concat([middle[:, :x], patch, middle[:, x + width :]], 1)
    return tf.reshape(tf.concat([rows[:y], middle, rows[y + height :]], 0), image.shape)


def second_seed(seed: tf.Tensor, number: int = 1) -> tf.Tensor:
    """Another stateless seed that is a function of `seed`, for each `number` from 1."""
    return tf.random.experimental.stateless_fold_in(seed, number)
