"""One checkpoint on disk: written to a temporary folder, verified, then renamed.

A checkpoint is a folder ``step-000001234`` with ``variables.npz`` (the values), ``variables.json``
(their names, dtypes and shapes), ``notes.json`` and ``manifest.json`` (the SHA-256 of the others).
It is valid if its manifest exists and matches. On a local disk the folder is written under another
name and renamed. An object store (``gs://``, or any other path of tf.io.gfile) cannot rename a
folder atomically, so the manifest is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tpu_train.remote_files import is_remote

KEEP = 2  # the newest, and the previous one in case it is corrupt
FORMAT = 3
_FILES = ("variables.npz", "variables.json", "notes.json")
_NAME = re.compile(r"step-(\d{9,})")
_DAMAGE = (OSError, tf.errors.OpError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


class FormatError(ValueError):
    """A checkpoint written by another version of this program."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after `step` steps."""

    step: int
    names: list[str]  # of all variables, in the order of saving
    values: list[np.ndarray]
    notes: dict  # JSON; the checkpoint of step ["best"]["step"] is never removed by rotation
    path: str = ""  # from where it was read
    digest: str = ""  # SHA-256 of its manifest, and so of all its contents


def save(folder: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Writes a :class:`Checkpoint` into `folder` atomically, then removes older ones.

    This one, the newest before it, and the best one that either of them notes are kept. Raises
    ``OSError`` if it cannot be written; the existing checkpoints stay.
    """
    final = _join(folder, f"step-{checkpoint.step:09d}")
    partial = final if is_remote(folder) else _join(folder, f".partial-{checkpoint.step:09d}")
    try:
        tf.io.gfile.makedirs(folder)
        for name in _listed(folder):
            if name.startswith(".partial-"):  # left by a run that was killed while saving
                _remove(_join(folder, name))
        _remove(partial)
        tf.io.gfile.makedirs(partial)
        _write_all(partial, checkpoint)
        if partial != final:
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            _folder_to_disk(folder)
    except (OSError, tf.errors.OpError) as error:
        _remove(partial)
        if isinstance(error, OSError):
            raise
        raise OSError(f"{partial}: {error.message}") from error
    _rotate(folder, checkpoint.step)


def latest(
    folder: str | os.PathLike[str], log: Callable[[str], object] = print
) -> Checkpoint | None:
    """The newest intact :class:`Checkpoint` of a folder, or None if there is none.

    Another process may write to the folder meanwhile. Corrupt checkpoints are reported through
    `log`. Raises ``ValueError`` if all of them are corrupt, so that a long run does not silently
    start from scratch. A checkpoint without a manifest was never complete and does not count.
    """
    checkpoint, errors, saved = None, {}, _saved(folder)
    for step, path in reversed(saved):
        try:
            checkpoint = _read(step, path)
            break
        except FormatError:
            raise
        except _DAMAGE as error:
            errors[path] = error
    if errors and _saved(folder) != saved:  # newer ones have replaced them meanwhile
        return latest(folder, log)
    for path, error in errors.items():
        log(f"skipping corrupt checkpoint {path}: {_message(error)}")
    corrupt = [path for path in errors if tf.io.gfile.exists(_join(path, "manifest.json"))]
    if corrupt and checkpoint is None:
        raise ValueError(
            f"None of the checkpoints in {folder} can be read ({', '.join(map(_base, corrupt))}): "
            "check the disk and the network, or give --overwrite to start from scratch"
        )
    return checkpoint


def restore(checkpoint: Checkpoint, variables: Sequence[tf.Variable]) -> None:
    """Assigns the saved values to `variables`, in the order of saving.

    Raises ``ValueError`` with the first variable whose name, dtype or shape differs, before any is
    changed.
    """
    for i, (name, value, variable) in enumerate(
        zip(checkpoint.names, checkpoint.values, variables)
    ):
        saved = (name, value.dtype.name, value.shape)
        expected = (name_of(variable), variable.dtype.name, tuple(variable.shape))
        if _unnumbered(saved[0]) != _unnumbered(expected[0]) or saved[1:] != expected[1:]:
            raise ValueError(
                f"{checkpoint.path} belongs to another network: its variable {i} is "
                f"{_shown(saved)}, this network's is {_shown(expected)}"
            )
    if len(checkpoint.values) != len(variables):
        raise ValueError(
            f"{checkpoint.path} belongs to another network: it has {len(checkpoint.values)} "
            f"variables, this network has {len(variables)}"
        )
    for value, variable in zip(checkpoint.values, variables):
        variable.assign(value)


def name_of(variable: tf.Variable) -> str:
    """The name under which a tf.Variable is saved, e.g. ``stem_conv/kernel``."""
    return variable.name.rsplit(":", 1)[0]


def _unnumbered(name):
    # Keras numbers a process's unnamed layers: the second run in a notebook has conv2d_7 where the
    # first had conv2d. Order, shape and dtype identify them.
    return re.sub(r"_\d+(?=/|$)", "", name)


def _shown(variable):
    name, dtype, shape = variable
    return f"{name} ({dtype} {'x'.join(map(str, shape)) or 'scalar'})"


def _write_all(folder, checkpoint):
    variables = [
        [name, value.dtype.name, list(value.shape)]
        for name, value in zip(checkpoint.names, checkpoint.values)
    ]
    digests = {
        "variables.npz": _write(
            _join(folder, "variables.npz"),
            lambda file: np.savez(file, *map(_storable, checkpoint.values)),
        ),
        "variables.json": _write_json(_join(folder, "variables.json"), variables),
        "notes.json": _write_json(_join(folder, "notes.json"), checkpoint.notes),
    }
    for name, digest in digests.items():
        if _sha256(_join(folder, name)) != digest:
            raise OSError(f"{_join(folder, name)} reads back differently from what was written")
    _write_json(_join(folder, "manifest.json"), {"format": FORMAT, "sha256": digests})


def _read(step, path):
    content = _contents(_join(path, "manifest.json"))
    manifest = json.loads(content)
    if manifest.get("format") != FORMAT:
        raise FormatError(
            f"{path} was written by another version of this program (format "
            f"{manifest.get('format', 1)}, this one reads {FORMAT}): finish the run with that "
            "version, choose another workdir, or give --overwrite to start from scratch"
        )
    for name in _FILES:
        digest, expected = _sha256(_join(path, name)), manifest["sha256"][name]
        if digest != expected:
            raise ValueError(f"{name} has SHA-256 {digest}, its manifest says {expected}")
    variables = json.loads(_contents(_join(path, "variables.json")))
    with (
        _open(_join(path, "variables.npz"), "rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        values = [
            _from_stored(arrays[f"arr_{i}"], dtype) for i, (_, dtype, _) in enumerate(variables)
        ]
    return Checkpoint(
        step=step,
        names=[name for name, _, _ in variables],
        values=values,
        notes=json.loads(_contents(_join(path, "notes.json"))),
        path=path,
        digest=hashlib.sha256(content).hexdigest(),
    )


def _storable(value):
    """The value in a dtype that .npz supports: bfloat16 becomes integers of the same bits."""
    value = np.asarray(value)
    return value.view(f"uint{8 * value.itemsize}") if value.dtype.kind == "V" else value


def _from_stored(stored, dtype):
    return stored.view(tf.as_dtype(dtype).as_numpy_dtype) if stored.dtype.name != dtype else stored


def _rotate(folder, step):
    saved = dict(_saved(folder))
    # Newer ones are corrupt, or were abandoned by a rollback.
    keep = set(sorted(s for s in saved if s <= step)[-KEEP:])
    for s in tuple(keep):
        with contextlib.suppress(*_DAMAGE):
            best = json.loads(_contents(_join(saved[s], "notes.json"))).get("best")
            keep.update({best["step"]} if best else ())
    for s in saved.keys() - keep:
        _remove(saved[s])


def _saved(folder):
    """[(step, path), ...] of all checkpoints in a folder, oldest first, intact or corrupt."""
    if not tf.io.gfile.isdir(folder):
        return []
    matches = filter(None, map(_NAME.fullmatch, _listed(folder)))
    return sorted((int(m[1]), _join(folder, m[0])) for m in matches)


def _listed(folder):
    return [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]  # object stores add a slash


def _remove(folder):
    """Removes what it can; the manifest first, so that leftovers do not count as a checkpoint."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        if tf.io.gfile.exists(_join(folder, "manifest.json")):
            tf.io.gfile.remove(_join(folder, "manifest.json"))
    with contextlib.suppress(OSError, tf.errors.OpError):
        tf.io.gfile.rmtree(folder)


def _join(folder, name):
    return f"{os.fspath(folder).rstrip('/')}/{name}"


def _base(path):
    return path.rsplit("/", 1)[-1]


def _open(path, mode):
    return tf.io.gfile.GFile(path, mode) if is_remote(path) else open(path, mode)


def _contents(path):
    with _open(path, "rb") as file:
        return file.read()


class _Hashed:
    """A file that is written sequentially, and the SHA-256 of what was written."""

    def __init__(self, file):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, chunk):
        chunk = bytes(chunk)
        self.digest.update(chunk)
        self.file.write(chunk)
        return len(chunk)

    def flush(self):
        self.file.flush()

    def read(self):  # never called: np.savez requires it of a file
        raise OSError("written only")


def _write(path, fill):
    """Writes a file by ``fill(file)``, syncs it to disk and returns its SHA-256."""
    with _open(path, "wb") as file:
        hashed = _Hashed(file)
        try:
            fill(hashed)
        finally:
            hashed.file = io.BytesIO()  # after an error, np.savez writes again when it is collected
        if not is_remote(path):
            _to_disk(file)
    return hashed.digest.hexdigest()


def _write_json(path, value):
    return _write(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder):
    """Syncs a rename, which a power failure could otherwise undo."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path):
    digest = hashlib.sha256()
    with _open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _message(error):
    return getattr(error, "message", None) or str(error)
