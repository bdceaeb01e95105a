import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_effnet.image_decoding import IMAGE_FORMATS, decode_image, readable_formats
from tests.transparency import transparent_image
from tpu_train.input_pipeline.encoded_images import decode_crop, encoded_shape

pytestmark = pytest.mark.every_stack

_WINDOW = (5, 3, 20, 17)
_shape = tf.function(encoded_shape, input_signature=[tf.TensorSpec([], tf.string)])
_crop = tf.function(
    decode_crop, input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)]
)


def _encoded(kind, orientation=None, **options):
    if kind not in readable_formats():
        pytest.skip(f"{kind} cannot be read here")
    y, x = np.mgrid[:48, :64]  # smooth, so that the chroma at the border of a crop is the same
    pixels = np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype(np.uint8)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][274] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"HEIC": "HEIF"}.get(kind, kind), **options)
    return file.getvalue()


def _assert_reads_like_decode_image(encoded):
    expected = decode_image(encoded)
    np.testing.assert_array_equal(_shape(encoded), expected.shape)
    y, x, height, width = _WINDOW
    crop = _crop(encoded, _WINDOW).numpy().astype(int)
    # The chroma at the border of a JPEG's crop lacks its neighbors.
    np.testing.assert_allclose(crop, expected[y : y + height, x : x + width], atol=2)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_every_format_is_read_by_the_rule_of_decode_image(kind):
    _assert_reads_like_decode_image(_encoded(kind))


def test_the_pixels_of_a_jpeg_are_those_of_pillow():
    """TensorFlow's default inverse DCT is off by one grey level on average."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    pixels = decode_crop(tf.constant(file.getvalue()), [0, 0, 48, 64])
    np.testing.assert_array_equal(pixels, decode_image(file.getvalue()))


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG")]
)
def test_transparent_pixels_are_those_of_decode_image(mode, kind):
    image, options = transparent_image(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    encoded = file.getvalue()
    for ignore_exif in (False, True):
        pixels = decode_crop(tf.constant(encoded), [0, 0, 2, 3], ignore_exif=ignore_exif)
        np.testing.assert_array_equal(pixels, decode_image(encoded))
    assert encoded_shape(tf.constant(encoded)).numpy().tolist() == [2, 3, 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientations_are_applied_to_the_crop(kind, orientation):
    encoded = _encoded(kind, orientation)
    _assert_reads_like_decode_image(encoded)
    stored = decode_image(encoded, ignore_exif=True)
    assert encoded_shape(tf.constant(encoded), ignore_exif=True).numpy().tolist() == [48, 64, 3]
    crop = decode_crop(tf.constant(encoded), [0, 0, 48, 64], ignore_exif=True).numpy()
    np.testing.assert_array_equal(crop, stored)


def test_exif_is_found_behind_other_segments():
    plain, rotated = _encoded("JPEG"), _encoded("JPEG", 6)
    length = int.from_bytes(rotated[4:6], "big")
    exif = rotated[2 : 4 + length] if rotated[3] == 0xE1 else None
    if exif is None:  # behind JFIF
        at = 20
        exif = rotated[at : at + 2 + int.from_bytes(rotated[at + 2 : at + 4], "big")]
    assert exif[1] == 0xE1
    comment = b"\xff\xed\x00\x06abcd"  # APP13, as Photoshop writes it
    for head in (plain[:20], plain[:2], plain[:20] + comment, plain[:2] + comment):
        _assert_reads_like_decode_image(head + exif + plain[20:])


def test_pillow_reads_no_header_without_metadata(monkeypatch):
    monkeypatch.setattr(
        "tpu_train.input_pipeline.encoded_images._pillow_orientation",
        lambda *_: pytest.fail("the header was read"),
    )
    encoded = tf.constant(_encoded("JPEG"))
    assert decode_crop(encoded, _WINDOW).shape == (20, 17, 3)
    assert encoded_shape(encoded).numpy().tolist() == [48, 64, 3]


@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8\xff", b"\x89PNG", b"<html>", b"RIFF1234WEBP"])
def test_what_is_no_image_is_an_error(encoded):
    with pytest.raises(tf.errors.OpError):
        _crop(encoded, _WINDOW)
    with pytest.raises(tf.errors.OpError):
        _shape(encoded)
