"""The size and the ends of image files: what they are, and whether they are complete.

Two small reads per file, where decoding all of them would take hours. What these do not tell is
decoded: files whose end is not that of a complete image of their format.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.image_decoding import HEAD_BYTES, image_format, readable_formats

_TAIL_BYTES = 64
_THREADS, _CHUNK = 16, 64
_SECONDS_UNTIL_PROGRESS = 2


class FileProbe(NamedTuple):
    """The size of a file in bytes, -1 if it is not a regular file, and its first and last bytes."""

    size: int
    head: bytes
    tail: bytes

    @property
    def format(self) -> str | None:
        """The image format, as :func:`keras_effnet.image_decoding.image_format`."""
        return image_format(self.head)

    @property
    def is_readable(self) -> bool:
        """Whether it is an image of a format that can be read here."""
        return self.format in readable_formats()

    @property
    def is_complete(self) -> bool:
        """Whether it ends like a complete image; if not, only decoding it can tell.

        >>> jpeg = bytes.fromhex("ffd8ffe0")
        >>> FileProbe(9, jpeg, bytes.fromhex("1234ffd9")).is_complete
        True
        """
        kind = self.format
        if kind == "JPEG":
            return self.tail.endswith(b"\xff\xd9")
        if kind == "PNG":
            return self.tail.endswith(b"IEND\xaeB`\x82")
        if kind == "WEBP":
            return int.from_bytes(self.head[4:8], "little") + 8 == self.size
        if kind == "BMP":
            return int.from_bytes(self.head[2:6], "little") == self.size
        return False


def probe_files(paths: Sequence[str], files: FileSystem = LOCAL) -> list[FileProbe]:
    """The :class:`FileProbe` of every file, in order; shows progress if that takes seconds."""

    def probe(path):
        if not files.isfile(path):
            return FileProbe(-1, b"", b"")
        with files.open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - _TAIL_BYTES))
            return FileProbe(size, head, file.read(_TAIL_BYTES))

    return map_files(probe, paths, "checking files")


def map_files(function: Callable, items: Sequence, description: str) -> list:
    """The function's result of every item, computed by threads; shows progress after seconds."""

    def map_chunk(start):
        return [function(item) for item in items[start : start + _CHUNK]]

    results = []
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            total=len(items), unit=" files", desc=description, delay=_SECONDS_UNTIL_PROGRESS
        ) as progress,
    ):
        for chunk in pool.map(map_chunk, range(0, len(items), _CHUNK)):
            results += chunk
            progress.update(len(chunk))
    return results
