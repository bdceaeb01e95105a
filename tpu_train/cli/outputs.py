"""Paths that a command writes to: no file of others is lost, and no data gets files in it."""

from __future__ import annotations

import glob
import os
import tempfile

from keras_effnet.atomic_write import encoded
from keras_effnet.image_decoding import is_picture_of

PREVIEW_MARK = "effnet-train preview"  # in the picture, under "Software"


def check_folder(flag: str, path: str, data: str, data_flag: str = "data") -> None:
    """Raises ``ValueError`` for a local output folder that cannot be written, or that lies in the
    folder of images `data`, which `data_flag` names. Leaves nothing behind.
    """
    if path.lower().startswith(("http://", "https://")):
        raise ValueError(f"--{flag} {path!r} is a URL of a web server: give a folder, or gs://...")
    if "://" in path:
        return
    if encoded(os.path.abspath(path)) != os.fsencode(os.path.abspath(path)):
        raise ValueError(
            f"--{flag} {path!r} has bytes in its name that are not UTF-8, which TensorFlow cannot "
            "write to: give another folder"
        )
    if os.path.lexists(path) and not os.path.isdir(path):
        raise ValueError(f"--{flag} {path!r} is not a folder: give another name")
    existing = os.path.abspath(path)
    while not os.path.isdir(existing):
        if os.path.lexists(existing):
            raise ValueError(f"--{flag} {path!r} is in {existing!r}, which is not a folder")
        existing = os.path.dirname(existing)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"--{flag} {path!r} is not writable: {error.strerror}") from error
    if os.path.isdir(data) and not glob.glob(os.path.join(glob.escape(data), "*-of-*")):
        inside, images = os.path.realpath(path), os.path.realpath(data)
        if os.path.commonpath([inside, images]) == images:
            raise ValueError(
                f"--{flag} {path!r} is inside --{data_flag} {data!r}: its files would be taken for "
                "images; give a folder outside of it"
            )


def check_picture(path: str) -> None:
    """Raises ``ValueError`` if a file is there that is no preview."""
    if os.path.lexists(path) and not is_picture_of(path, PREVIEW_MARK):
        raise ValueError(
            f"--out {path!r} exists and is not a picture of effnet-train preview: it is not "
            "overwritten; give another name or delete it"
        )
