"""Atomic writes of local files: a reader sees the old file or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping

from keras_effnet.interruption import interrupts_deferred


def write_files(files: Mapping[str, bytes | str]) -> None:
    """Writes {path: content}: first all temporary files, then one rename each, in the given order.

    Text is written as UTF-8, see :func:`encoded`. Raises ``OSError`` as the file system does; no
    temporary file is left behind. Ctrl-C takes effect afterwards, so that the files fit together.
    """
    temporary = []
    with interrupts_deferred():
        try:
            for path, content in files.items():
                temporary.append(_temporary_beside(path))
                _write(temporary[-1], encoded(content), path)
            for path in files:
                os.replace(temporary[0], path)
                del temporary[0]
        finally:
            for leftover in temporary:
                os.unlink(leftover)


def encoded(content: bytes | str) -> bytes:
    r"""The bytes of a file: text as UTF-8, with escapes for file names that are not UTF-8.

    >>> encoded(os.fsdecode(b"caf\xe9"))
    b'caf\\udce9'
    """
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path of a temporary file, for code that writes by name; it replaces `path` at the end.

    The temporary file lies in the same folder and has the same suffix. An error removes it and
    leaves `path` as it was.
    """
    temporary = None
    try:
        with interrupts_deferred():
            temporary = _temporary_beside(path)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise


def remove_leftovers(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Removes the temporary files of `names` that a killed process has left in a local folder.

    The caller must be the only one that writes files of these names there. Links, folders and the
    temporary files of other names stay.
    """
    patterns = [
        re.escape(_prefix(name)) + "[a-z0-9_]{8}" + re.escape(os.path.splitext(name)[1])
        for name in names
    ]
    leftover = re.compile("|".join(patterns))
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if leftover.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)


def check_writable(path: str | os.PathLike[str]) -> str:
    """The absolute path, if a file can be written there; ``ValueError`` otherwise.

    Leaves nothing behind.
    """
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder; give the path of a file in it")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder!r} is not a folder; create it, or write elsewhere")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # raises for a name that is too long, and for a loop of links
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{path!r} is not writable ({error}); write elsewhere") from error
    return path


def check_new(path: str | os.PathLike[str], inputs: Mapping[str, object]) -> str:
    """The absolute path, if a file can be written there and it is not one of the inputs.

    Links, relative paths and, where the file system ignores it, case make no difference. `inputs`
    is {argument: path or None}. Raises ``ValueError`` that names the argument.
    """
    path = check_writable(path)
    for argument, given in inputs.items():
        if given is not None and _is_same_file(path, os.fspath(given)):
            raise ValueError(
                f"{path!r} is the file of {argument}, which would be overwritten: give another name"
            )
    return path


def _is_same_file(path, other):
    if os.path.exists(path) and os.path.exists(other):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.path.realpath(other)


def _write(temporary, content, path):
    try:
        with open(temporary, "wb") as file:
            file.write(content)
    except OSError as error:
        if error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, path) from error  # e.g. a full disk


def _temporary_beside(path):
    """An empty file beside `path`, with its suffix and the permissions of a new file."""
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    suffix = os.path.splitext(name)[1]
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=_prefix(name), suffix=suffix)
    os.close(handle)
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's file is readable by its owner only
    return temporary


def _prefix(name):
    """Of the temporary files of a name; without the name, which other programs may look for."""
    return f".partial-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}-"


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
