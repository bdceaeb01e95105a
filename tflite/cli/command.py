"""What the commands share: exit status, image flags, reading models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tflite.flatbuffer.ops import ConversionError
from tflite.images import tfrecord

IMAGES = (
    "folder of images, folder with one folder per class, folder of TFRecord shards (its train set; "
    "FOLDER/validation for another), tfds:NAME or tfds:NAME/SPLIT, or .npz (images, labels)"
)
LABELS = "text file with one class name per line, in the order of the scores"


def exit_status(name: str, command: Callable[[], int]) -> int:
    """Runs a command; returns its exit status, 2 for bad input, 1 for a failed conversion. Prints
    an error as one line.
    """
    try:
        return command()
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except ConversionError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def require_images(flag: str, source: str | None) -> None:
    """Raises ``ValueError`` if the images that a flag names do not exist."""
    if source is not None and not tfrecord.exists(source):
        raise ValueError(f"--{flag} {source!r} does not exist")


def require_file(argument: str, path: str, endings: str) -> None:
    """Raises ``ValueError`` unless the path in an argument is a file; suggests the endings."""
    if not os.path.isfile(path):
        raise ValueError(f"{argument} {path!r} is not a file; give a {endings} file")


def read_tflite(argument: str, path: str, endings: str = ".tflite") -> bytes:
    """The bytes of the .tflite file in an argument."""
    require_file(argument, path, endings)
    with open(path, "rb") as file:
        return file.read()
