"""Shapes and crops of encoded images in a TensorFlow graph, read as keras_effnet.decode_image does.

TensorFlow decodes JPEG (only the crop), and PNG without transparency. Pillow decodes the others,
through ``tf.numpy_function``. EXIF rotation is applied to the crop, after decoding: few bytes of
the header tell whether an image can have one, and only then Pillow reads the header. Each graph is
traced once in a process, not once in every pipeline that calls it.

JPEG's pixels are Pillow's. TensorFlow's default inverse DCT is faster by a twentieth, and off by
one grey level on average: a network would not be evaluated as it was trained.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from keras_effnet.image_decoding import (
    FLIPPED_ACROSS,
    FLIPPED_DOWN,
    decode_image,
    exif_orientation,
    image_shape,
)

# Metadata of a PNG in which Pillow finds an orientation.
_PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_PNG, _PNG_COLOR_TYPE = b"\x89PNG", 25  # the byte of the color type
_HEAD_BYTES = 22  # of a JPEG, to the marker behind a JFIF segment of the usual length


def encoded_shape(encoded, *, ignore_exif=False):
    """int32 (height, width, channels) of an encoded image; of a JPEG without decoding it."""
    return _traced(_encoded_shape, ignore_exif)(tf.convert_to_tensor(encoded))


def decode_crop(encoded, window, *, ignore_exif=False):
    """uint8 (height, width, 3): pixels of an encoded image in a window (y, x, height, width)."""
    arguments = tf.convert_to_tensor(encoded), tf.convert_to_tensor(window)
    return _traced(_decode_crop, ignore_exif)(*arguments)


@functools.cache
def _traced(function, ignore_exif):
    return tf.function(functools.partial(function, ignore_exif=ignore_exif), autograph=False)


def _encoded_shape(encoded, ignore_exif):
    def by_pillow():
        shape = _numpy(_pillow_shape, (encoded, ignore_exif), tf.int32)
        return tf.ensure_shape(shape, [3])

    orientation = _orientation(encoded, ignore_exif)

    def by_tensorflow():
        shape = tf.cond(
            _is_jpeg(encoded),
            lambda: tf.image.extract_jpeg_shape(encoded),
            lambda: tf.shape(_decode(encoded)),
        )
        return tf.where(orientation >= 5, tf.gather(shape, [1, 0, 2]), shape)

    return tf.cond(orientation > 0, by_tensorflow, by_pillow)


def _decode_crop(encoded, window, ignore_exif):
    orientation = _orientation(encoded, ignore_exif)

    def by_pillow():
        pixels = _numpy(_pillow_pixels, (encoded, ignore_exif), tf.uint8)
        return slice_window(tf.ensure_shape(pixels, [None, None, 3]), window)

    def by_tensorflow():
        return tf.cond(
            orientation == 1,
            lambda: _decode_stored_crop(encoded, window),
            lambda: _decode_rotated_crop(encoded, window, orientation),
        )

    return tf.cond(orientation > 0, by_tensorflow, by_pillow)


def slice_window(image, window):
    """The pixels of an image in a window (y, x, height, width)."""
    begin, size = tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0)
    return tf.slice(image, begin, size)


def _decode_stored_crop(encoded, window):
    return tf.cond(
        _is_jpeg(encoded),
        lambda: tf.image.decode_and_crop_jpeg(
            encoded, window, channels=3, dct_method="INTEGER_ACCURATE"
        ),
        lambda: slice_window(_decode(encoded), window),
    )


def _decode_rotated_crop(encoded, window, orientation):
    """The window of the upright image: its place in the stored one is decoded, then turned."""
    down = tf.reduce_any(orientation == FLIPPED_DOWN)
    across = tf.reduce_any(orientation == FLIPPED_ACROSS)
    transposed = orientation >= 5
    height, width = tf.unstack(encoded_shape(encoded)[:2])
    y, x, rows, columns = tf.unstack(window)
    y = tf.where(down, height - y - rows, y)
    x = tf.where(across, width - x - columns, x)
    stored = tf.where(transposed, tf.stack([x, y, columns, rows]), tf.stack([y, x, rows, columns]))
    crop = _decode_stored_crop(encoded, stored)
    crop = tf.cond(transposed, lambda: tf.transpose(crop, [1, 0, 2]), lambda: crop)
    crop = tf.cond(down, lambda: crop[::-1], lambda: crop)
    return tf.cond(across, lambda: crop[:, ::-1], lambda: crop)


def _is_jpeg(encoded):
    return tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"


def _is_png(encoded):
    return tf.strings.substr(encoded, 0, 4) == _PNG


def _decode(encoded):
    image = tf.io.decode_png(encoded, channels=3)
    image.set_shape([None, None, 3])
    return image


def _orientation(encoded, ignore_exif):
    """The EXIF orientation, 1 to 8, as an int32 scalar; 0 for an image that Pillow decodes."""

    def by_pillow():
        orientation = _numpy(_pillow_orientation, (encoded, ignore_exif), tf.int32)
        return tf.ensure_shape(orientation, [])

    may_be_rotated = _is_png(encoded) if ignore_exif else _may_be_rotated(encoded)
    unread = tf.where(_is_jpeg(encoded), 1, 0)  # not BMP: TensorFlow reads some of its kinds only
    return tf.cond(may_be_rotated, by_pillow, lambda: unread)


def _may_be_rotated(encoded):
    """Whether Pillow must look at the header: of a PNG, or a JPEG with an APP1 to APP15 segment
    first or behind JFIF.
    """
    head = tf.cast(
        tf.io.decode_raw(
            tf.strings.substr(encoded, 0, _HEAD_BYTES), tf.uint8, fixed_length=_HEAD_BYTES
        ),
        tf.int32,
    )
    is_jfif = head[3] == 0xE0
    usual_length = (head[4] == 0) & (head[5] == 16)
    following = tf.where(is_jfif & usual_length, head[21], head[3])
    return _is_png(encoded) | (_is_jpeg(encoded) & (following >= 0xE0) & (following <= 0xEF))


def _numpy(function, arguments, dtype):
    return tf.numpy_function(function, arguments, dtype, stateful=False)


def _pillow_shape(encoded, ignore_exif):
    return np.array([*image_shape(_bytes(encoded), ignore_exif=bool(ignore_exif)), 3], np.int32)


def _pillow_pixels(encoded, ignore_exif):
    return np.ascontiguousarray(decode_image(_bytes(encoded), ignore_exif=bool(ignore_exif)))


def _pillow_orientation(encoded, ignore_exif):
    encoded = _bytes(encoded)
    if encoded.startswith(_PNG):
        has_alpha = encoded[_PNG_COLOR_TYPE : _PNG_COLOR_TYPE + 1] not in (b"\0", b"\2")
        if has_alpha or b"tRNS" in encoded[: encoded.find(b"IDAT")]:
            return np.int32(0)  # or a palette, which may have transparent colors
        if ignore_exif or not any(key in encoded for key in _PNG_METADATA):
            return np.int32(1)
    try:
        return np.int32(exif_orientation(encoded))
    except ValueError:  # TensorFlow's decoder reports what is wrong with the image
        return np.int32(1)


def _bytes(encoded):
    return encoded if isinstance(encoded, bytes) else encoded.item()  # an array outside a graph
