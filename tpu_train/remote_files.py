"""Files on the local disk and on object stores (``gs://``): any path that tf.io.gfile knows."""

from __future__ import annotations

import hashlib
import os
import uuid

import tensorflow as tf

from keras_effnet.atomic_write import encoded, write_files
from keras_effnet.datasets.file_system import FileSystem, traverse


def _size(path):  # not a lambda: other processes get GFILE, too
    return tf.io.gfile.stat(path).length


def _is_file(path):  # no pipe, which would block; what an object store lists are files
    return is_remote(path) or os.path.isfile(path)


def _traverse(path):
    return tf.io.gfile.walk(path) if is_remote(path) else traverse(path)


GFILE = FileSystem(
    listdir=tf.io.gfile.listdir,
    exists=tf.io.gfile.exists,
    isdir=tf.io.gfile.isdir,
    isfile=_is_file,
    size=_size,
    open=tf.io.gfile.GFile,
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
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
