"""Decodes, crops and resizes images as a network's weights require. No Keras here.

A :class:`Preprocessing` belongs to the weights (:mod:`keras_effnet.pretrained.registry`). A model
stores it in the name of an identity layer, so that every file of the model keeps it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import struct
from dataclasses import dataclass, replace

import numpy as np

INTERPOLATIONS = ("bilinear", "bicubic")

# Formats that are read, by Pillow's names, with the usual endings of their files. The content of a
# file decides which one it is. Pillow's other formats are vector graphics, containers that need
# external programs, and formats without a signature.
IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
}
IMAGE_ENDINGS = tuple(ending for endings in IMAGE_FORMATS.values() for ending in endings)
HEAD_BYTES = 32  # of a file, enough for image_format

_SIGNATURES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("BMP", rb"BM.{4}\0{4}"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF.{4}WEBP"),
    ("TIFF", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    ("AVIF", rb".{4}ftyp(?=.{0,20}avi[fs])"),
    ("HEIC", rb".{4}ftyp(hei|hev|mif1|msf1)"),
    ("JPEG2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("PPM", rb"P[1-6]\s+[#\d]"),
    ("QOI", rb"qoif"),
)

# EXIF orientations that need a flip, after transposing those from 5 on.
FLIPPED_DOWN, FLIPPED_ACROSS = (3, 4, 7, 8), (2, 3, 6, 7)
_ORIENTATION, _SUBFILE, _DNG_VERSION = 274, 254, 50706  # TIFF tags

# The name of the identity layer that stores a Preprocessing.
_LAYER_NAME = re.compile(r"preprocessing_(\d+)px_(whole|crop(\d\.\d+))_(bilinear|bicubic)")


@dataclass(frozen=True)
class Preprocessing:
    """How to crop and resize an image of any size.

    Pixels stay RGB in [0, 255]: the network normalizes them.
    """

    image_size: int  # pixels a side
    crop: float | None  # centered, relative to the shorter side; None: no crop, stretched
    interpolation: str  # "bilinear" | "bicubic"

    def __post_init__(self):
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} is too small: give at least 1 pixel")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(
                f"crop {self.crop} is out of range: give one in (0, 1], or None for no crop"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {self.interpolation!r} is unknown: give 'bilinear' or 'bicubic'"
            )

    def __str__(self) -> str:
        region = (
            "the whole image, stretched"
            if self.crop is None
            else f"center square of {self.crop:.3g} of the shorter side"
        )
        return (
            f"RGB in [0, 255]; {region}; {self.interpolation} to "
            f"{self.image_size} x {self.image_size} pixels"
        )

    @property
    def layer_name(self) -> str:
        """The name of the layer that stores this in a file."""
        crop = "whole" if self.crop is None else f"crop{self.crop:.4f}"
        return f"preprocessing_{self.image_size}px_{crop}_{self.interpolation}"


def preprocessing(model) -> Preprocessing:
    """The :class:`Preprocessing` stored in a ``keras.Model``, or in a model nested in it.

    Its size is the model's input size, if that is fixed. Raises ``ValueError`` for a model without
    it, i.e. one that was not built by keras_effnet.

    >>> from keras_effnet import create_model
    >>> print(preprocessing(create_model("efficientnetv2-b0")))
    RGB in [0, 255]; center square of 0.875 of the shorter side; bicubic to 224 x 224 pixels
    """
    for layer in _layers(model):
        stored = parse_layer_name(layer.name)
        if stored is not None:
            size = model.input_shape[1:3] if model.input_shape[-1] in (1, 3) else ()
            sides = {n for n in size if n is not None}
            return replace(stored, image_size=sides.pop()) if len(sides) == 1 else stored
    raise ValueError(
        f"{model.name} does not state its preprocessing: it was not built by "
        "keras_effnet.create_model. Use keras_effnet.Preprocessing(image_size, crop, interpolation)"
    )


def parse_layer_name(layer_name: str) -> Preprocessing | None:
    """The :class:`Preprocessing` stored in a layer's name, or None.

    >>> parse_layer_name(Preprocessing(224, 0.875, "bicubic").layer_name)
    Preprocessing(image_size=224, crop=0.875, interpolation='bicubic')
    """
    match = _LAYER_NAME.fullmatch(layer_name)
    if not match:
        return None
    size, _, crop, interpolation = match.groups()
    return Preprocessing(int(size), crop and float(crop), interpolation)


def _layers(model):
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def image_format(head: bytes) -> str | None:
    """The format of a file by its first ``HEAD_BYTES``: a key of ``IMAGE_FORMATS``, "HEIC" or None.

    HEIC is recognized but cannot be read.

    >>> image_format(b"RIFF....WEBPVP8L")
    'WEBP'
    """
    for name, signature in _SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return name
    return None


def load_image(path: str | os.PathLike[str], *, ignore_exif: bool = False) -> np.ndarray:
    """The image in a file of ``IMAGE_FORMATS``: uint8 (height, width, 3), RGB, upright.

    Raises ``ValueError`` as :func:`decode_image` does, and for a path that does not exist.

    >>> load_image("photo.jpg")
    Traceback (most recent call last):
    ValueError: photo.jpg does not exist: give the path of an image file
    """
    if not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)} does not exist: give the path of an image file")
    return decode_image(path, ignore_exif=ignore_exif)


def decode_image(
    source: str | os.PathLike[str] | bytes, *, ignore_exif: bool = False
) -> np.ndarray:
    """The pixels of an encoded image, given as a path or as bytes: uint8 (height, width, 3), RGB.

    The image is turned upright by its EXIF orientation; `ignore_exif` leaves it as stored, as the
    official training and evaluation do. The first image of an animation is taken, transparency is
    dropped, and of 16 bits a channel the upper 8 are kept.

    Raises ``ValueError`` for data that is not an image of ``IMAGE_FORMATS``, is truncated, has
    pixels without a known range (32 bits or floating point), or is so large that Pillow refuses it
    as a decompression bomb.

    >>> decode_image(b"<html>")
    Traceback (most recent call last):
    ValueError: image of 6 bytes is not an image that can be read
    """
    with _open_image(source) as (image, name):
        pixels = np.asarray(_to_rgb(image, name))
        # Pillow turns a TIFF upright itself, and then reports no orientation
        return pixels if ignore_exif else turn_upright(pixels, _orientation(image))


def image_shape(source: bytes, *, ignore_exif: bool = False) -> tuple[int, int]:
    """(height, width) of :func:`decode_image`'s result, from the header where that suffices."""
    with _open_image(source) as (image, _):
        if image.format == "TIFF":  # Pillow turns it upright when it decodes it
            image.load()
        swapped = not ignore_exif and _orientation(image) >= 5
        return image.size if swapped else image.size[::-1]


def exif_orientation(source: str | os.PathLike[str] | bytes) -> int:
    """The EXIF orientation of an image, 1 to 8, from its header; 1 (upright) if it has none."""
    with _open_image(source) as (image, _):
        return _orientation(image)


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image (height, width, ...) as its EXIF orientation, 1 to 8, wants it shown.

    >>> turn_upright(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in FLIPPED_DOWN:
        image = image[::-1]
    return image[:, ::-1] if orientation in FLIPPED_ACROSS else image


@contextlib.contextmanager
def _open_image(source):
    """(Pillow's image, its name for messages); any failure to read it is a ``ValueError``."""
    from PIL import Image, UnidentifiedImageError  # here: tables need no Pillow

    encoded = isinstance(source, bytes)
    name = f"image of {len(source):,} bytes" if encoded else os.fspath(source)
    try:
        file = io.BytesIO(source) if encoded else name
        with Image.open(file, formats=_readable_formats()) as image:
            yield image, name
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read{_reason(source)}") from error
    except (OSError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}") from error


@functools.cache
def _readable_formats():
    """The formats of ``IMAGE_FORMATS`` that this Pillow knows."""
    from PIL import Image

    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _reason(source):
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read(HEAD_BYTES)
    kind = image_format(source)
    return f": {kind} is not supported here, convert it to JPEG or PNG" if kind else ""


def _to_rgb(image, name):
    """8-bit RGB; see :func:`decode_image`."""
    if image.format == "TIFF" and (_DNG_VERSION in image.tag_v2 or image.tag_v2.get(_SUBFILE) == 1):
        raise ValueError(f"{name} is a camera's raw file: export it as JPEG or PNG")
    sixteen_bits = image.mode.startswith("I;16")
    # Pillow gives 16-bit gray of these formats in 32 bits.
    sixteen_bits |= image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")
    if sixteen_bits:
        from PIL import Image

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode[0] in "IF" or image.mode == "LAB":
        raise ValueError(
            f"{name} has {image.mode} pixels, not 8 or 16 bits of gray, RGB or CMYK: convert it"
        )
    return image.convert("RGB")


def _orientation(image):
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many types for damaged EXIF, which does not harm the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The cropped and resized image: uint8 (size, size, channels) in [0, 255].

    `image` is uint8 (height, width, channels). As in the official evaluation, crops a center square
    of ``int(crop * shorter side)`` pixels, then resizes without antialiasing (google/automl
    efficientnetv2/preprocess_legacy.py). Raises ``ValueError`` for another shape or dtype.

    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> preprocess(image, Preprocessing(32, 0.875, "bicubic")).shape
    (32, 32, 3)
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"the image is {image.dtype} {image.shape}: give uint8 (height, width, channels)"
        )
    if preprocessing.crop is not None:
        height, width = image.shape[:2]
        side = max(1, int(preprocessing.crop * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        image = image[top : top + side, left : left + side]
    size = preprocessing.image_size
    return resize(image, size, size, preprocessing.interpolation)


def resize(
    image: np.ndarray, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """The resized image: uint8 (height, width, channels).

    `image` is uint8 (h, w, channels). Follows ``tf.image.resize`` without antialiasing: half-pixel
    centers; bicubic is Keys' kernel with a = -0.5, with weights renormalized at the border.

    >>> resize(np.array([[[0], [100]]], np.uint8), 1, 4)[0, :, 0].tolist()
    [0, 25, 75, 100]
    """
    out = image
    for axis, size in ((0, height), (1, width)):
        if image.shape[axis] != size:
            taps = _taps(image.shape[axis], size, interpolation)
            shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
            out = sum(out.take(at, axis) * weight.reshape(shape) for at, weight in taps)
    return out if out is image else np.rint(np.clip(out, 0, 255)).astype(np.uint8)


def _taps(source, size, interpolation):
    """[(indices, weights), ...]: the source pixels of each of `size` pixels, of `source`."""
    at = (np.arange(size) + 0.5) * (source / size) - 0.5
    low = np.floor(at).astype(np.int64)
    rest = at - low
    if interpolation == "bilinear":
        taps = [(low, 1 - rest), (low + 1, rest)]
        return [(np.clip(i, 0, source - 1), w.astype(np.float32)) for i, w in taps]
    taps = [(low + k, _cubic(np.abs(rest - k))) for k in (-1, 0, 1, 2)]
    inside = [(i, np.where((i >= 0) & (i < source), w, 0.0)) for i, w in taps]
    total = sum(w for _, w in inside)
    return [(np.clip(i, 0, source - 1), (w / total).astype(np.float32)) for i, w in inside]


def _cubic(x, a=-0.5):
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
