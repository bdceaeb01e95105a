"""Files that are there whole, or not at all."""

import os
import tempfile


def write(files):
    """Writes {path: bytes}: all aside first, beside where they belong, then moved into place in
    their order.
    """
    asides = []
    try:
        for path, content in files.items():
            handle, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
            asides.append(aside)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(aside, 0o666 & ~_umask())  # mkstemp's own is for the owner alone
        for path, aside in zip(files, list(asides)):
            os.replace(aside, path)
            asides.remove(aside)
    finally:
        for aside in asides:
            os.unlink(aside)


def check_writable(path):
    """The absolute path, if a file can be written there; ``ValueError`` otherwise. Leaves nothing
    behind.
    """
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder; give the .tflite's own path in it")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder!r} is not a folder; make it, or write elsewhere")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder!r} cannot be written to ({error}); write elsewhere") from error
    return path


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
