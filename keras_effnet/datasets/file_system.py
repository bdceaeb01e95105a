"""The file operations that data sets are read with: of local files, or of an object store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FileSystem:
    """The operations of the local file system, or others of the same form (``tf.io.gfile``)."""

    listdir: Callable = os.listdir
    exists: Callable = os.path.exists
    isdir: Callable = os.path.isdir
    isfile: Callable = os.path.isfile  # False for pipes and dangling links
    size: Callable = os.path.getsize
    open: Callable = open  # (path, "rb") -> a file
    traverse: Callable = os.walk

    def read(self, path: str, size: int = -1) -> bytes:
        """The content of a file, or its first `size` bytes."""
        with self.open(path, "rb") as file:
            return file.read(size)


LOCAL = FileSystem()
