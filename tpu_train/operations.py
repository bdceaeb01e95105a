"""The pixel arithmetic of RandAugment and AutoAugment on one uint8 image, in the graph.

Every operation takes the argument that it is published with, and equals the official EfficientNet
code's output to the grey level (google/automl efficientnetv2/autoaugment.py; the tests compare),
with one exception that is on purpose: see :func:`solarize`. Images are uint8 (height, width, 3) of
a static shape.
"""

import tensorflow as tf

FILL = 128  # grey, where a warp brings in pixels from outside


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


def invert(image):
    """The negative."""
    return 255 - image


def posterize(image, bits):
    """Only the highest `bits` bits kept; 0 keeps one, as the official code's clamped shift does."""
    shift = tf.constant(min(8 - bits, 7), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def solarize(image, threshold):
    """Pixels from `threshold` up inverted; none from 256 up.

    The official code's threshold of 256 or more wraps around in uint8 (256 inverts everything,
    384 is 128): give ``threshold % 256`` for that.
    """
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
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def cutout(image, half, u):
    """A grey square of twice `half` pixels a side around a centre, cut at the border.

    `u` are two numbers of [0, 1): where the centre is.
    """
    height, width = image.shape[0], image.shape[1]
    rows = tf.range(height) - tf.cast(u[0] * height, tf.int32)
    columns = tf.range(width) - tf.cast(u[1] * width, tf.int32)
    hit_rows, hit_columns = (rows >= -half) & (rows < half), (columns >= -half) & (columns < half)
    hit = hit_rows[:, None, None] & hit_columns[None, :, None]
    return tf.where(hit, tf.cast(FILL, tf.uint8), image)
