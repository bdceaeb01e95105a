"""Reads the tensors in PyTorch's ``.pth`` files without PyTorch, and without running their code.

A ``.pth`` file is a pickle, which can name any function and have it called. Only the few names in
:data:`_NAMES` are resolved here, to functions of this module that build plain data. Both formats of
``torch.save`` are read: a zip archive (since PyTorch 1.6), and pickles in a row.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from dataclasses import dataclass, field

import numpy as np

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that is not an archive


@dataclass
class _Storage:
    """The numbers of one or several tensors; legacy files hold them behind the tensors."""

    kind: str  # a key of _DTYPES
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def itemsize(self) -> int:
        return np.dtype(_DTYPES[self.kind]).itemsize

    def fill(self, content: bytes) -> None:
        self.values = np.frombuffer(content, _DTYPES[self.kind])
        if self.kind == "BFloat16Storage":
            self.values = (self.values.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True)
class Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor's values, float32. Raises ``ValueError`` for values outside the storage."""
        values, shape, strides = self.storage.values, tuple(self.shape), tuple(self.strides)
        last = self.offset + sum((n - 1) * s for n, s in zip(shape, strides))
        if (
            len(shape) != len(strides)
            or min((self.offset, *shape, *strides)) < 0
            or math.prod(shape) > len(values)
            or (math.prod(shape) and last >= len(values))
        ):
            raise ValueError(f"a tensor of shape {shape} lies outside its {len(values)} numbers")
        strides = tuple(s * values.itemsize for s in strides)
        view = np.lib.stride_tricks.as_strided(values[self.offset :], shape, strides)
        return view.astype("float32", order="C")


class _Dict(dict):
    """A dict of any kind; attributes that were pickled with it (a state dict's) are ignored."""

    def __setstate__(self, state):
        pass


def _tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor has a {type(storage).__name__} as its storage")
    return Tensor(storage, offset, shape, strides)


_NAMES = {
    ("collections", "OrderedDict"): _Dict,
    ("collections", "Counter"): _Dict,  # of learning rate schedules
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", kind): kind for kind in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, new_storage):
        super().__init__(file, encoding="utf-8")  # of Python 2's strings
        self._new_storage = new_storage

    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it holds an object of {module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid):
        tag, kind, key, _, _, *view = pid  # where it was and its size; and a view of old formats
        if tag != "storage" or kind not in _DTYPES or view not in ([], [None]):
            raise pickle.UnpicklingError(f"it holds a storage of an unknown kind: {pid}")
        return self._new_storage(kind, key)


def load(path: str | os.PathLike[str]) -> object:
    """The object in a ``.pth`` file, with a :class:`Tensor` for each tensor.

    Raises an exception of any kind for a damaged or malicious file, and never calls what it names.
    """
    if zipfile.is_zipfile(path):
        return _load_archive(path)
    return _load_pickles(path)


def _load_archive(path):
    with zipfile.ZipFile(path) as archive:
        (index,) = (n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl")
        folder = index[: -len("data.pkl")]
        storages = {}

        def read(name):
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # PyTorch never does
                raise ValueError(f"{name} is compressed")
            return archive.read(name)

        def new_storage(kind, key):
            if key not in storages:
                storages[key] = _Storage(kind)
                storages[key].fill(read(f"{folder}data/{key}"))
            return storages[key]

        if f"{folder}byteorder" in archive.namelist() and read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(index) as file:
            return _Unpickler(file, new_storage).load()


def _load_pickles(path):
    storages = {}

    def new_storage(kind, key):
        return storages.setdefault(key, _Storage(kind))

    with open(path, "rb") as file:

        def unpickle():
            return _Unpickler(file, new_storage).load()

        if unpickle() != _MAGIC:
            raise ValueError("it is not a file of torch.save")
        unpickle()  # the version of the format
        if not unpickle()["little_endian"]:
            raise ValueError("its numbers are big-endian")
        content = unpickle()
        left = os.path.getsize(path)
        for key in unpickle():
            count = file.read(8)
            size = int.from_bytes(count, "little") * storages[key].itemsize
            numbers = file.read(min(size, left))
            if len(count) < 8 or len(numbers) < size:
                raise EOFError("it ends in the middle of a tensor")
            storages[key].fill(numbers)
    return content
