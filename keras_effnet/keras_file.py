"""Opens ``.keras`` files: only complete ones, and without running code in them."""

from __future__ import annotations

import os
import zipfile
import zlib

# RuntimeError: an entry is marked as encrypted, or as compressed by an unknown method.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
_LONGEST = 400  # characters of Keras's text, which may have a whole configuration


def check_keras_file(path: str | os.PathLike[str]) -> None:
    """Raises ``ValueError`` for a ``.keras`` file that is incomplete, damaged or of another format.

    Reads all of it, and compares the checksums. Needs no Keras. Raises ``OSError`` for a file that
    does not exist or must not be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
                missing = "" if "config.json" in archive.namelist() else "has no config.json"
        except _UNREADABLE:
            damaged, missing = None, "is not a complete zip archive"
    problem = f"has a damaged {damaged}" if damaged else missing
    if problem:
        raise ValueError(
            f"{path} cannot be read as a .keras file: it {problem}, so it is incomplete, damaged "
            "or of another format. Copy it again, or give a file that model.save wrote"
        )


def load_keras_file(path: str | os.PathLike[str]):
    """The Keras model in a ``.keras`` file, not compiled; no code in the file is run.

    Raises ``ValueError`` as :func:`check_keras_file` does, and if Keras cannot load it.
    """
    check_keras_file(path)
    import keras  # here: the check needs no framework

    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged configuration or a custom layer may raise anything
        text = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        raise ValueError(f"{os.fspath(path)} cannot be read as a .keras file: {text}") from error
