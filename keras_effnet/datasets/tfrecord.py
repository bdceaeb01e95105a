"""TFRecord files without TensorFlow: framing, sets of shards, and the index beside them.

Shards are named and keyed as in ImageNet's usual form: ``train-00000-of-01024`` with
``image/encoded`` and ``image/class/label`` (from 1). ``effnet-train prepare`` writes an index and a
label file beside them.

A record is its length (uint64), the masked CRC-32C of the length, its bytes and their CRC. Only the
CRC of the length is verified here, since a CRC of all bytes is slow in Python: TensorFlow's readers
and ``effnet-train prepare --check`` verify it.
"""

from __future__ import annotations

import collections
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.label_file import parse_labels

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
SCORES_KEY = "image/class/scores"  # of pseudo-labeled images: a float for each class
INDEX, LABELS = "index.jsonl", "labels.txt"
PARTIAL = ".partial"  # subfolder of an incomplete output of `effnet-train prepare`
ENTRY_KEYS = ("file", "split", "bytes", "sha256", "positions", "offsets", "lengths", "labels")
_SHARD = re.compile(r"([A-Za-z]\w*)-(\d{5})-of-(\d{5})")
_HEADER = struct.Struct("<QI")  # length, its CRC
FRAMING = _HEADER.size + 4  # bytes around a record


@dataclass(frozen=True, eq=False)
class Records:
    """The positions of the records of some files."""

    paths: tuple[str, ...]
    files: np.ndarray  # int32 (records,), indices of paths
    numbers: np.ndarray  # int64 (records,), records before it in its file
    offsets: np.ndarray  # int64 (records,), bytes before it in its file
    lengths: np.ndarray  # int64 (records,), bytes without the framing

    @classmethod
    def of_files(cls, paths: Sequence[str], framings: Sequence[tuple]) -> Records:
        """All records of files, of which `framings` has the (offsets, lengths)."""
        counts = [len(offsets) for offsets, _ in framings]
        return cls(
            tuple(paths),
            np.repeat(np.arange(len(paths), dtype=np.int32), counts),
            np.concatenate([np.arange(count) for count in counts]),
            *(np.concatenate(arrays).astype(np.int64) for arrays in zip(*framings)),
        )

    def __len__(self):
        return len(self.offsets)

    def where(self, i: int) -> str:
        """The path of record `i` and its number in the file, for messages."""
        return f"{self.paths[self.files[i]]} record {self.numbers[i]}"

    def take(self, order: np.ndarray) -> Records:
        """The records at these indices, in this order."""
        arrays = {"files", "numbers", "offsets", "lengths"}
        return replace(self, **{name: getattr(self, name)[order] for name in arrays})

    def read(self, i: int, files: FileSystem = LOCAL) -> bytes:
        """The bytes of record `i`; ``ValueError`` if it is not at its position."""
        length = int(self.lengths[i])
        with files.open(self.paths[self.files[i]], "rb") as file:
            file.seek(int(self.offsets[i]))
            framed = file.read(_HEADER.size + length)
        if len(framed) < _HEADER.size + length or _length(framed, self.where(i)) != length:
            raise ValueError(
                f"{self.where(i)} is not at its indexed position: copy or prepare the file again"
            )
        return framed[_HEADER.size :]


def find_shards(folder: str, files: FileSystem = LOCAL) -> dict[str, dict[int, dict[int, str]]]:
    """{split: {number of shards: {shard: path}}} of the shards in a folder; empty if it has none.

    Raises ``ValueError`` for the incomplete output of an ``effnet-train prepare``.
    """
    names = sorted(name.rstrip("/") for name in files.listdir(folder))  # object stores add a slash
    if PARTIAL in names and INDEX not in names:
        raise ValueError(
            f"{folder} is an incomplete output of `effnet-train prepare` or `pseudo-label`: rerun "
            "the same command to resume"
        )
    splits = collections.defaultdict(lambda: collections.defaultdict(dict))
    for name in names:
        if match := _SHARD.fullmatch(name):
            split, shard, count = match.groups()
            splits[split][int(count)][int(shard)] = os.path.join(folder, name)
    return {split: dict(counts) for split, counts in splits.items()}


def shard_paths(folder: str, split: str, shards: dict[int, dict[int, str]]) -> list[str]:
    """The paths of all shards of a split, of the value of :func:`find_shards`.

    Raises ``ValueError`` if shards are missing, or the folder has two sets of them.
    """
    if len(shards) > 1:
        raise ValueError(f"{folder} has two sets of {split} shards: remove one of them")
    ((count, paths),) = shards.items()
    missing = [f"{split}-{n:05}-of-{count:05}" for n in range(count) if n not in paths]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {count} {split} shards ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): copy or prepare them again"
        )
    return [paths[n] for n in range(count)]


@dataclass(frozen=True)
class Index:
    """The index that ``effnet-train prepare`` writes beside its shards, one JSON line each.

    An entry is a dict with the keys ENTRY_KEYS: the file, its split, size and SHA-256, and for each
    record the position of its image in the split, its offset, length and labels (lists, from 1).
    """

    path: str
    header: dict  # "splits": {name: images}, "classes": names, and the inputs of the writer
    entries: tuple[dict, ...]

    def of_split(self, split: str) -> list[dict]:
        """The entries of one split."""
        return [entry for entry in self.entries if entry["split"] == split]

    def framing(self, path: str, files: FileSystem = LOCAL) -> tuple[list[int], list[int]]:
        """(offsets, lengths) of the records of a shard; ``ValueError`` if its size differs."""
        name = os.path.basename(path)
        entry = next((entry for entry in self.entries if entry["file"] == name), None)
        size = files.size(path) if files.exists(path) else 0
        if entry is None or entry["bytes"] != size:
            expected = f"{entry['bytes']:,}" if entry else "no such file"
            raise ValueError(
                f"{path} has {size:,} bytes, but {INDEX} has {expected}: copy it again, or delete "
                f"{INDEX} to read the shards without it"
            )
        return entry["offsets"], entry["lengths"]


def read_index(folder: str, files: FileSystem = LOCAL) -> Index | None:
    """The :class:`Index` of a folder, or None; ``ValueError`` for another file of that name."""
    path = os.path.join(folder, INDEX)
    if not files.exists(path):
        return None
    try:
        with files.open(path, "rb") as file:
            header, *entries = map(json.loads, file.read().splitlines())
        missing = {"splits", "classes"} - header.keys()
        for entry in entries:
            missing |= set(ENTRY_KEYS) - entry.keys()
        problem = f"it lacks {', '.join(sorted(missing))}" if missing else ""
        problem = problem or ("" if entries else "it has no shards")
    except (ValueError, AttributeError) as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"{path} is not an index of `effnet-train prepare` ({problem}): delete it to read the "
            "shards without it"
        )
    return Index(path, header, tuple(entries))


def read_class_names(folder: str, files: FileSystem = LOCAL) -> tuple[str, ...] | None:
    """The class names of the label file in a folder of shards, or None without one."""
    path = os.path.join(folder, LABELS)
    if not files.exists(path):
        return None
    with files.open(path, "rb") as file:
        return parse_labels(file.read(), path)


def scan_framing(path: str, files: FileSystem = LOCAL) -> tuple[list[int], list[int]]:
    """(offsets, lengths) of the records of a file, seeking from one record to the next.

    Raises ``ValueError`` for a file that is truncated, damaged, empty or not a TFRecord file.
    """
    size, position, offsets, lengths = files.size(path), 0, [], []
    with files.open(path, "rb") as file:
        while position < size:
            where = f"{path} record {len(offsets)}"
            file.seek(position)
            length = _length(file.read(_HEADER.size), where)
            offsets.append(position)
            lengths.append(length)
            position += length + FRAMING
            if position > size:
                raise _truncated(where)
    if not offsets:
        raise empty_file(path)
    return offsets, lengths


def empty_file(path: str) -> ValueError:
    """The exception for a file without records."""
    return ValueError(f"{path} has no records: copy or prepare it again")


def _length(header, where):
    if len(header) < _HEADER.size:
        raise _truncated(where)
    length, checksum = _HEADER.unpack_from(header)
    if checksum != masked_crc32c(header[:8]):
        raise ValueError(
            f"{where} is damaged (the checksum of its length is wrong), or the file is not an "
            "uncompressed TFRecord file: copy or prepare it again"
        )
    return length


def _truncated(where):
    return ValueError(f"{where} is truncated: copy or prepare the file again")


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli, reflected
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum of a few bytes (slow: plain Python).

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
