"""Cache of calibrations on disk: the calibration of one preset serves the next.

An entry holds arrays that were computed from a float32 .tflite and images. Its name is a hash of
both; the images are those after preprocessing, so that other crops or sizes are other entries. It
also holds what may change the numbers: versions and the processor. An entry that is damaged, or of
another version, is ignored with one line and written again. Entries are written atomically, so that
several processes may share the cache; those used least recently are deleted above the size limit.

Entries are in ``keras_effnet/calibration`` of Keras's cache (``KERAS_HOME``, default ``~/.keras``).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

import keras_effnet
from keras_effnet.atomic_write import write_files
from keras_effnet.pretrained.download import cache_folder

MAX_BYTES = 512 << 20  # of all entries
_FORMAT = 1  # raise it when the computed arrays change their meaning
_PACKAGES = ("ai-edge-litert", "numpy")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class CalibrationCache:
    """Entries in a folder; without a folder everything is computed."""

    folder: pathlib.Path | None = None
    max_bytes: int = MAX_BYTES
    log: Callable[[str], None] = lambda line: None

    def arrays(
        self,
        kind: str,
        float32_model: bytes,
        images: np.ndarray,
        compute: Callable[[], Mapping[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """{name: array} of a model on images, read from the cache or else computed and written.

        Args:
            kind: what is computed; each kind has its own entries.
            float32_model: bytes of the .tflite.
            images: uint8 (n, height, width, channels), in the order in which they are used.
            compute: returns the arrays.
        """
        if self.folder is None:
            return dict(compute())
        path = self.folder / f"{kind}-{_digest(float32_model, images)}.npz"
        arrays = self._read(path)
        if arrays is None:
            arrays = dict(compute())
            self._write(path, arrays)
        return arrays

    def _read(self, path):
        try:
            content = path.read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            versions = json.loads(str(arrays.pop("versions")))
            checksum = str(arrays.pop("checksum"))
            if versions != _versions():
                self.log(f"  Cache: {path.name} is of another version; calibrating again")
                return None
            if checksum != _checksum(arrays):
                raise ValueError("wrong checksum")
            with contextlib.suppress(OSError):
                os.utime(path)  # used now
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.log(f"  Cache: {path} cannot be read ({reason}); calibrating again")
            return None
        self.log(f"  Cache: from {path}")
        return arrays

    def _write(self, path, arrays):
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, versions=json.dumps(_versions()), checksum=_checksum(arrays), **arrays
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_files({str(path): buffer.getvalue()})
            self._delete_oldest()
        except OSError as error:
            self.log(f"  Cache: {path.parent} cannot be written ({error}); continuing without it")

    def _delete_oldest(self):
        entries = []
        for path in self.folder.glob("*.npz"):
            with contextlib.suppress(FileNotFoundError):  # another process deleted it
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries)[:-1]:
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


NO_CACHE = CalibrationCache()


def default_folder() -> pathlib.Path:
    """The folder of the cache: a part of Keras's."""
    return cache_folder().parent / "keras_effnet" / "calibration"


def _digest(float32_model, images):
    digest = hashlib.sha256(hashlib.sha256(float32_model).digest())
    digest.update(str(images.shape).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def _checksum(arrays):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _versions():
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        **versions,
        "keras_effnet": keras_effnet.__version__,
        "format": _FORMAT,
        "processor": f"{platform.machine()} {_processor()}",
    }


def _processor():
    """The processor's model: its kernels may round in another way than those of another one."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
