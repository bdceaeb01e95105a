import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_effnet.constructors import create_model
from keras_effnet.image_decoding import (
    HEAD_BYTES,
    IMAGE_FORMATS,
    decode_image,
    image_format,
    image_shape,
    is_picture_of,
    load_image,
    readable_formats,
    unreadable_reason,
)
from keras_effnet.image_preprocessing import (
    INTERPOLATIONS,
    Preprocessing,
    preprocess,
    preprocessing,
    resize,
)
from tests.transparency import transparent_image


@pytest.fixture
def photo():
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (90, 61, 3)).astype(np.uint8)


@pytest.mark.tensorflow_only("compares with TensorFlow's resize")
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(32, 32), (200, 130), (90, 40), (7, 61)])
def test_resize_matches_tensorflow_within_one_grey_level(photo, size, interpolation):
    import tensorflow as tf

    want = np.rint(np.clip(tf.image.resize(photo, size, method=interpolation), 0, 255))
    have = resize(photo, *size, interpolation)
    assert have.dtype == np.uint8
    assert np.abs(have.astype(int) - want).max() <= 1


def test_the_crop_is_the_official_center_crop(photo):
    """decode_and_center_crop of the official code: offset ((height - size) + 1) // 2."""
    input_spec = Preprocessing(53, 0.875, "bilinear")  # int(0.875 * 61) pixels: no resize
    top, left = (90 - 53 + 1) // 2, (61 - 53 + 1) // 2
    np.testing.assert_array_equal(
        preprocess(photo, input_spec), photo[top : top + 53, left : left + 53]
    )


def test_without_crop_the_image_is_stretched(photo):
    input_spec = Preprocessing(40, None, "bicubic")
    np.testing.assert_array_equal(preprocess(photo, input_spec), resize(photo, 40, 40, "bicubic"))


@pytest.mark.every_stack
@pytest.mark.parametrize(
    "input_spec",
    [
        Preprocessing(224, 0.875, "bicubic"),
        Preprocessing(300, 300 / 332, "bicubic"),
        Preprocessing(384, None, "bilinear"),
        Preprocessing(64, 1.0, "bilinear"),
    ],
)
@pytest.mark.parametrize("include_preprocessing", [True, False])
def test_preprocessing_survives_saving(keras, tiny, input_spec, include_preprocessing, tmp_path):
    model = create_model(
        tiny,
        classes=3,
        input_shape=(None, None, 3),
        preprocessing=input_spec,
        include_preprocessing=include_preprocessing,
    )
    model.save(tmp_path / "x.keras")
    loaded = preprocessing(keras.saving.load_model(tmp_path / "x.keras"))
    for message in (preprocessing(model), loaded):
        assert message.image_size == input_spec.image_size
        assert message.interpolation == input_spec.interpolation
        assert (message.crop is None) == (input_spec.crop is None)
        assert message.crop is None or abs(message.crop - input_spec.crop) < 1e-4


@pytest.mark.every_stack
def test_preprocessing_has_the_input_size_also_when_nested(keras, tiny):
    inner = create_model(tiny, include_top=False, input_shape=(48, 48, 3), pooling="avg")
    inputs = keras.Input((48, 48, 3))
    outer = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    assert preprocessing(inner).image_size == preprocessing(outer).image_size == 48


@pytest.mark.every_stack
def test_other_models_have_no_preprocessing(keras):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="does not state its preprocessing"):
        preprocessing(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, "bilinear"), "image_size 0"),
        ((224, 1.5, "bilinear"), "crop 1.5"),
        ((224, None, "nearest"), "interpolation 'nearest'"),
    ],
)
def test_invalid_preprocessing_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*arguments)


def test_other_image_types_are_errors(photo):
    with pytest.raises(ValueError, match="float32"):
        preprocess(photo.astype(np.float32), Preprocessing(32, None, "bilinear"))


def test_images_are_decoded_to_8_bit_rgb(photo, tmp_path):
    from PIL import Image

    for name, pixels, expected in (
        ("rgb.png", photo, photo),
        ("grey.png", photo[..., 0], photo[..., :1].repeat(3, -1)),
    ):
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(load_image(path), expected, name)
        np.testing.assert_array_equal(decode_image(path), expected, name)
        np.testing.assert_array_equal(decode_image(path.read_bytes()), expected, name)


def _encode(pixels, kind, **options):
    from PIL import Image

    if kind not in readable_formats():
        pytest.skip(f"{kind} cannot be read here")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"HEIC": "HEIF"}.get(kind, kind), **options)
    return file.getvalue()


_LOSSLESS = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_content_decides_the_format(photo, kind, tmp_path):
    path = tmp_path / "photo.jpg"  # the wrong ending for most
    path.write_bytes(_encode(photo, kind, **_LOSSLESS.get(kind, {})))
    assert image_format(path.read_bytes()[:HEAD_BYTES]) == kind
    pixels = load_image(path)
    assert pixels.shape == (*image_shape(path.read_bytes()), 3) == photo.shape
    if kind not in ("JPEG", "GIF", "AVIF", "HEIC"):
        np.testing.assert_array_equal(pixels, photo)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bits_the_upper_8_are_kept(photo, kind):
    deep = photo[..., 0].astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(decode_image(_encode(deep, kind))[..., 1], photo[..., 0])


_TURNED = {  # EXIF orientation -> the upright image of the stored one
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", _TURNED)
def test_images_are_turned_upright_by_exif(photo, kind, orientation):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = orientation
    encoded = _encode(photo, kind, exif=exif, **_LOSSLESS.get(kind, {}))
    upright = _TURNED[orientation](photo)
    np.testing.assert_array_equal(decode_image(encoded), upright)
    assert image_shape(encoded) == upright.shape[:2]
    np.testing.assert_array_equal(decode_image(encoded, ignore_exif=True), photo)
    assert image_shape(encoded, ignore_exif=True) == photo.shape[:2]


def test_damaged_exif_is_ignored(photo):
    encoded = _encode(photo, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(decode_image(encoded), photo)


def test_a_format_that_cannot_be_read_is_refused_by_name():
    for head, name in ((b"\0\0\0\x18ftypheic", "HEIC"), (b"\xff\x0a", "JPEG XL")):
        assert image_format(head + bytes(50)) == name
    assert unreadable_reason("HEIC").endswith("JPEG or PNG, or pip install pillow-heif")
    with pytest.raises(
        ValueError, match="JPEG XL is not supported here, convert it to JPEG or PNG"
    ):
        decode_image(b"\xff\x0a" + bytes(50))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG")],
)
def test_transparent_pixels_are_composited_over_white(mode, kind):
    image, options = transparent_image(mode)
    file = io.BytesIO()
    image.save(file, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = decode_image(file.getvalue())
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [0, 0, 0]
    if "A" in mode:
        assert abs(int(pixels[0, 2, 0]) - 127) <= 1


def test_errors_name_the_undecodable_file(photo, tmp_path):
    from PIL import Image

    with pytest.raises(ValueError, match=r"none\.jpg does not exist"):
        load_image(tmp_path / "none.jpg")
    (tmp_path / "x.jpg").write_text("<html>")
    Image.fromarray(photo).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    Image.fromarray(photo[..., 0].astype(np.int32)).save(tmp_path / "deep.tiff")
    for name, message in (
        ("x.jpg", "is not an image"),
        ("cut.png", "cannot be decoded"),
        ("deep.tiff", "has I pixels, not 8 or 16 bits"),
    ):
        path = tmp_path / name
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            load_image(path)
        with pytest.raises(ValueError, match=rf"image of [\d,]+ bytes {message}"):
            decode_image(path.read_bytes())


def test_decompression_bombs_are_refused(photo, tmp_path, monkeypatch):
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"x\.png cannot be decoded"):
        load_image(tmp_path / "x.png")


def test_a_picture_of_this_program_is_told_from_any_other_file(tmp_path):
    path, png = tmp_path / "p.png", io.BytesIO()
    for key, text, is_own in (
        ("Software", "effnet explain", True),
        ("comment", "effnet explain", True),
        ("comment", "holidays", False),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_text(key, text)
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
        assert is_picture_of(path, "effnet explain") is is_own
    Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg", comment="effnet explain")
    assert is_picture_of(tmp_path / "p.jpg", "effnet explain")
    Image.new("RGB", (4, 4)).save(png, "PNG")
    header = b"IHDR" + struct.pack(">II", 16000, 14000) + png.getvalue()[24:29]
    bomb = png.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header))
    for content, is_own in ((bomb + png.getvalue()[33:], False), (bomb[:20], False), (b"", True)):
        path.write_bytes(content)
        assert is_picture_of(path, "effnet explain") is is_own
