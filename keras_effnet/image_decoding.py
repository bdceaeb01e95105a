"""Reads image files: format by content, pixels as 8-bit RGB, upright by EXIF. No Keras here."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import warnings

import numpy as np

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
    "HEIC": (".heic", ".heif"),  # with pillow-heif
}
IMAGE_ENDINGS = tuple(ending for endings in IMAGE_FORMATS.values() for ending in endings)
HEAD_BYTES = 32  # of a file, enough for image_format
_PILLOW_NAMES = {"HEIC": "HEIF"}  # that differ

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
    ("JPEG XL", rb"\0\0\0\x0cJXL |\xff\x0a"),
)

# EXIF orientations that need a flip, after transposing those from 5 on.
FLIPPED_DOWN, FLIPPED_ACROSS = (3, 4, 7, 8), (2, 3, 6, 7)
_ORIENTATION, _SUBFILE, _DNG_VERSION = 274, 254, 50706  # TIFF tags


def image_format(head: bytes) -> str | None:
    """The format of a file by its first ``HEAD_BYTES``, or None.

    A key of ``IMAGE_FORMATS``, or "JPEG XL", which is recognized but cannot be read; see
    :func:`readable_formats`.

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
    if os.path.isdir(path):
        raise ValueError(f"{os.fspath(path)} is a folder: give the path of an image file")
    if not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)} does not exist: give the path of an image file")
    return decode_image(path, ignore_exif=ignore_exif)


def decode_image(
    source: str | os.PathLike[str] | bytes, *, ignore_exif: bool = False
) -> np.ndarray:
    """The pixels of an encoded image, given as a path or as bytes: uint8 (height, width, 3), RGB.

    The image is turned upright by its EXIF orientation; `ignore_exif` leaves it as stored, as the
    official training and evaluation do. The first image of an animation is taken, transparent
    pixels are composited over white, and of 16 bits a channel the upper 8 are kept.

    Raises ``ValueError`` for data that is not an image of ``IMAGE_FORMATS``, is truncated, has
    pixels without a known range (32 bits or floating point), or is so large that Pillow refuses it
    as a decompression bomb.

    >>> decode_image(b"<html>")
    Traceback (most recent call last):
    ValueError: image of 6 bytes is not an image that can be read
    """
    with _open_image(source) as (image, name):
        turned = _turned_by_pillow(image)
        pixels = np.asarray(_to_rgb(image, name))
        if ignore_exif:
            return turn_upright(pixels, {6: 8, 8: 6}.get(turned, turned))  # the inverse
        return turn_upright(pixels, _orientation(image))


def image_shape(source: bytes, *, ignore_exif: bool = False) -> tuple[int, int]:
    """(height, width) of :func:`decode_image`'s result, from the header where that suffices."""
    with _open_image(source) as (image, _):
        turned = _turned_by_pillow(image)
        if image.format == "TIFF":
            image.load()
        swapped = (turned if ignore_exif else _orientation(image)) >= 5
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


def is_picture_of(path: str | os.PathLike[str], program: str) -> bool:
    """Whether a file is an image that states `program` as its software or comment, or is empty."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            stated = [image.info.get("Software"), image.info.get("comment")]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return os.path.isfile(path) and not os.path.getsize(path)
    return program in stated or program.encode() in stated


@contextlib.contextmanager
def _open_image(source):
    """(Pillow's image, its name for messages); any failure to read it is a ``ValueError``."""
    from PIL import Image, UnidentifiedImageError  # here: tables need no Pillow

    encoded = isinstance(source, bytes)
    name = f"image of {len(source):,} bytes" if encoded else os.fspath(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images, palettes with transparency
            file = io.BytesIO(source) if encoded else name
            pillow_names = [_PILLOW_NAMES.get(name, name) for name in readable_formats()]
            with Image.open(file, formats=pillow_names) as image:
                yield image, name
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read{_reason(source)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} cannot be decoded: it is larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; "
            "make it smaller"
        ) from error
    except _UnsupportedPixelsError:
        raise
    except Exception as error:  # plugins raise anything for damaged files
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} cannot be decoded: {reason}") from error


class _UnsupportedPixelsError(ValueError):
    """The image is intact, but its pixels have no known range."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The formats of ``IMAGE_FORMATS`` that can be read here.

    HEIC needs the package pillow-heif, and AVIF and JPEG 2000 a Pillow that was built with them.

    >>> "JPEG" in readable_formats()
    True
    """
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in IMAGE_FORMATS if _PILLOW_NAMES.get(name, name) in Image.OPEN)


def unreadable_reason(kind: str) -> str:
    """Why a format that :func:`image_format` recognizes cannot be read here, and what to do.

    >>> unreadable_reason("JPEG XL")
    'JPEG XL is not supported here, convert it to JPEG or PNG'
    """
    package = ", or pip install pillow-heif" if kind == "HEIC" else ""
    return f"{kind} is not supported here, convert it to JPEG or PNG{package}"


def _reason(source):
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read(HEAD_BYTES)
    kind = image_format(source)
    if kind in readable_formats():
        return f": it is damaged, or of a kind of {kind} that is not read, e.g. a camera's raw file"
    return f": {unreadable_reason(kind)}" if kind else ""


def _to_rgb(image, name):
    """8-bit RGB; see :func:`decode_image`."""
    if image.format == "TIFF" and (_DNG_VERSION in image.tag_v2 or image.tag_v2.get(_SUBFILE) == 1):
        raise _UnsupportedPixelsError(f"{name} is a camera's raw file: export it as JPEG or PNG")
    sixteen_bits = image.mode.startswith("I;16")
    # Pillow gives 16-bit gray of these formats in 32 bits.
    sixteen_bits |= image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")
    if sixteen_bits:
        from PIL import Image

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode[0] in "IF" or image.mode == "LAB":
        raise _UnsupportedPixelsError(
            f"{name} has {image.mode} pixels, not 8 or 16 bits of gray, RGB or CMYK: convert it"
        )
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        from PIL import Image

        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), pixels).convert("RGB")
    return image.convert("RGB")


def _turned_by_pillow(image):
    """The orientation by which Pillow will turn the pixels: it turns TIFF files upright itself.

    Once they are decoded, it reports none.
    """
    return _orientation(image) if image.format == "TIFF" else 1


def _orientation(image):
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many types for damaged EXIF, which does not harm the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1
