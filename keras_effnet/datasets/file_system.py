"""The file operations that data sets are read with: of local files, or of an object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def traverse(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk``, and through links to folders, but not from a folder into itself.

    Raises ``OSError`` for a folder that cannot be listed, whose files would be missed.
    """

    def fail(error):
        if os.path.basename(error.filename) != "lost+found":  # of a disk, for its administrator
            raise error

    around = {folder: (os.path.realpath(folder),)}
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        outer = around.pop(root)
        inner = {name: os.path.realpath(os.path.join(root, name)) for name in folders}
        folders[:] = [name for name in folders if inner[name] not in outer]
        around.update({os.path.join(root, name): (*outer, inner[name]) for name in folders})
        yield root, folders, names


@dataclass(frozen=True)
class FileSystem:
    """The operations of the local file system, or others of the same form (``tf.io.gfile``)."""

    listdir: Callable = os.listdir
    exists: Callable = os.path.exists
    isdir: Callable = os.path.isdir
    isfile: Callable = os.path.isfile  # False for pipes and dangling links
    size: Callable = os.path.getsize
    open: Callable = open  # (path, "rb") -> a file
    traverse: Callable = traverse

    def read(self, path: str, size: int = -1) -> bytes:
        """The content of a file, or its first `size` bytes."""
        with self.open(path, "rb") as file:
            return file.read(size)


LOCAL = FileSystem()
