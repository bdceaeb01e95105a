"""Files on the local disk and on object stores (``gs://``): any path that tf.io.gfile knows."""

from __future__ import annotations

import hashlib
import os
import uuid

import tensorflow as tf

from keras_effnet.atomic_write import encoded, write_files
from keras_effnet.datasets.file_system import LOCAL, FileSystem

# No lambdas: other processes get GFILE, too. Local files are read without TensorFlow, which takes
# no names that are not UTF-8.


def _listdir(path):
    return tf.io.gfile.listdir(path) if is_remote(path) else LOCAL.listdir(path)


def _exists(path):
    return tf.io.gfile.exists(path) if is_remote(path) else LOCAL.exists(path)


def _isdir(path):
    return tf.io.gfile.isdir(path) if is_remote(path) else LOCAL.isdir(path)


def _isfile(path):  # what an object store lists are files
    return is_remote(path) or LOCAL.isfile(path)


def _size(path):
    return tf.io.gfile.stat(path).length if is_remote(path) else LOCAL.size(path)


def _open(path, mode="r"):
    return tf.io.gfile.GFile(path, mode) if is_remote(path) else LOCAL.open(path, mode)


def _traverse(path):
    return tf.io.gfile.walk(path) if is_remote(path) else LOCAL.traverse(path)


GFILE = FileSystem(
    listdir=_listdir,
    exists=_exists,
    isdir=_isdir,
    isfile=_isfile,
    size=_size,
    open=_open,
    traverse=_traverse,
)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path has a scheme such as ``gs://``."""
    return "://" in os.fspath(path)


def write_file(path: str, content: bytes | str) -> None:
    """Writes a file atomically: readers see the old content or the new one.

    Several processes may write the same file. Raises ``OSError``, or ``tf.errors.OpError`` for a
    remote path.
    """
    if not is_remote(path):
        write_files({path: content})
        return
    temporary = f"{path}.{uuid.uuid4().hex}.new"
    with tf.io.gfile.GFile(temporary, "wb") as file:
        file.write(encoded(content))
    tf.io.gfile.rename(temporary, path, overwrite=True)


def read_file(path: str) -> bytes:
    """The content of a file."""
    return GFILE.read(path)


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with GFILE.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
