"""What a run needs to go on after it was cut: written aside, verified, then made current.

A checkpoint is a folder ``step-000001234`` with ``variables.npz`` (the values), ``variables.json``
(their names, dtypes and shapes), ``notes.json`` and ``manifest.json`` (the SHA-256 of the others).
It counts when its manifest is there and is right. On a disk the folder is written under another
name and renamed; an object store (``gs://``, or any path of tf.io.gfile) cannot rename a folder in
one piece, so that there the manifest is written last.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

KEEP = 2  # the newest, and the one before it in case it is torn
FORMAT = 2
_FILES = ("variables.npz", "variables.json", "notes.json")
_NAME = re.compile(r"step-(\d{9,})")
_DAMAGE = (OSError, tf.errors.OpError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


class FormatError(ValueError):
    """A checkpoint of another version of this program."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after so many steps."""

    step: int
    names: "list[str]"  # of all variables, in the order of saving
    values: "list[np.ndarray]"
    notes: dict  # for JSON; the step that ["best"]["step"] names is never rotated away
    path: str = ""  # where it was read
    digest: str = ""  # of its manifest, and so of all of it


def save(folder, checkpoint):
    """Writes a :class:`Checkpoint` into `folder`, whole or not at all.

    Then removes others: kept are this one, the newest before it, and the best that either of them
    notes. Raises ``OSError`` when it cannot be written; those that were there stay.
    """
    final = _join(folder, f"step-{checkpoint.step:09d}")
    partial = final if _remote(folder) else _join(folder, f".partial-{checkpoint.step:09d}")
    try:
        tf.io.gfile.makedirs(folder)
        for name in _listed(folder):
            if name.startswith(".partial-"):  # of a run that was killed while it saved
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


def latest(folder, say=print):
    """The newest whole :class:`Checkpoint` of a folder, or None; `say` is told of torn ones.

    Raises ``ValueError`` when there are some and none is whole, rather than let a run that has cost
    so much begin anew; one that lacks its manifest was never whole and does not count.
    """
    torn = []
    for step, path in reversed(_found(folder)):
        try:
            return _read(step, path)
        except FormatError:
            raise
        except _DAMAGE as error:
            if tf.io.gfile.exists(_join(path, "manifest.json")):
                torn.append(path)
            say(f"{path} is torn and is passed over: {_message(error)}")
    if torn:
        raise ValueError(
            f"None of the checkpoints in {folder} can be read ({', '.join(map(_base, torn))}): "
            "see that the disk or the network is well, or give --overwrite to start anew"
        )
    return None


def read(folder, step):
    """The :class:`Checkpoint` of a step; ``ValueError`` when it is not there or is torn."""
    path = _join(folder, f"step-{step:09d}")
    try:
        return _read(step, path)
    except FormatError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {_message(error)}") from error


def restore(checkpoint, variables):
    """Assigns the values to `variables`: as many, in the same order, of the same names and shapes.

    Raises ``ValueError`` with the first that differs, before any is changed.
    """
    there = list(zip(checkpoint.names, checkpoint.values))
    here = [(name_of(v), v) for v in variables]
    for i, ((name, value), (own, variable)) in enumerate(zip(there, here)):
        saved = (name, value.dtype.name, value.shape)
        wanted = (own, variable.dtype.name, tuple(variable.shape))
        if _unnumbered(saved[0]) != _unnumbered(wanted[0]) or saved[1:] != wanted[1:]:
            raise ValueError(
                f"{checkpoint.path} is of another network: its variable {i} is {_shown(saved)}, "
                f"here it is {_shown(wanted)}"
            )
    if len(there) != len(here):
        raise ValueError(
            f"{checkpoint.path} is of another network: it has {len(there)} variables, here are "
            f"{len(here)}"
        )
    for (_, value), (_, variable) in zip(there, here):
        variable.assign(value)


def name_of(variable):
    """The name under which a tf.Variable is saved: ``stem_conv/kernel``."""
    return variable.name.rsplit(":", 1)[0]


def _unnumbered(name):
    # Keras numbers the layers of a process that have no name: the second run in a notebook has
    # conv2d_7 where the first had conv2d. Order, shape and dtype say the rest.
    return re.sub(r"_\d+(?=/|$)", "", name)


def _shown(variable):
    name, dtype, shape = variable
    return f"{name} ({dtype} {'x'.join(map(str, shape)) or 'scalar'})"


def _write_all(folder, checkpoint):
    listed = [
        [name, value.dtype.name, list(value.shape)]
        for name, value in zip(checkpoint.names, checkpoint.values)
    ]
    digests = {
        "variables.npz": _write(
            _join(folder, "variables.npz"),
            lambda file: np.savez(file, *map(_storable, checkpoint.values)),
        ),
        "variables.json": _write_json(_join(folder, "variables.json"), listed),
        "notes.json": _write_json(_join(folder, "notes.json"), checkpoint.notes),
    }
    for name, digest in digests.items():
        have = _sha256(_join(folder, name))
        if have != digest:
            raise OSError(f"{_join(folder, name)} reads back as something else than was written")
    _write_json(_join(folder, "manifest.json"), {"format": FORMAT, "sha256": digests})


def _read(step, path):
    manifest = _contents(_join(path, "manifest.json"))
    listed = json.loads(manifest)
    if listed.get("format") != FORMAT:
        raise FormatError(
            f"{path} was written by another version of this program (format "
            f"{listed.get('format', 1)}, this one reads {FORMAT}): finish the run with that one, "
            "choose another workdir, or give --overwrite to start anew"
        )
    for name in _FILES:
        have = _sha256(_join(path, name))
        if have != listed["sha256"][name]:
            raise ValueError(
                f"{name} has SHA-256 {have}, its manifest says {listed['sha256'][name]}"
            )
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
        digest=hashlib.sha256(manifest).hexdigest(),
    )


def _storable(value):
    """As an array that .npz knows: bfloat16 as the integers of its bits."""
    value = np.asarray(value)
    return value.view(f"uint{8 * value.itemsize}") if value.dtype.kind == "V" else value


def _from_stored(stored, dtype):
    return stored.view(tf.as_dtype(dtype).as_numpy_dtype) if stored.dtype.name != dtype else stored


def _rotate(folder, step):
    found = dict(_found(folder))
    kept = set(sorted(s for s in found if s <= step)[-KEEP:])  # a newer one is torn, or given up
    for s in tuple(kept):
        with contextlib.suppress(*_DAMAGE):
            best = json.loads(_contents(_join(found[s], "notes.json"))).get("best")
            kept.update({best["step"]} if best else ())
    for s in found.keys() - kept:
        _remove(found[s])


def _found(folder):
    """[(step, path), ...] of a folder, oldest first, whole or torn."""
    if not tf.io.gfile.isdir(folder):
        return []
    matches = filter(None, map(_NAME.fullmatch, _listed(folder)))
    return sorted((int(m[1]), _join(folder, m[0])) for m in matches)


def _listed(folder):
    return [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]  # object stores' have a slash


def _remove(folder):
    """As far as it can be; the manifest first, so that what stays is no checkpoint."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        if tf.io.gfile.exists(_join(folder, "manifest.json")):
            tf.io.gfile.remove(_join(folder, "manifest.json"))
    with contextlib.suppress(OSError, tf.errors.OpError):
        tf.io.gfile.rmtree(folder)


def _remote(path):
    return "://" in os.fspath(path)


def _join(folder, name):
    return f"{os.fspath(folder).rstrip('/')}/{name}"


def _base(path):
    return path.rsplit("/", 1)[-1]


def _open(path, mode):
    return tf.io.gfile.GFile(path, mode) if _remote(path) else open(path, mode)


def _contents(path):
    with _open(path, "rb") as file:
        return file.read()


class _Hashed:
    """A file that is written from front to end, and its SHA-256."""

    def __init__(self, file):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, chunk):
        chunk = bytes(chunk)
        self.digest.update(chunk)
        self.file.write(chunk)
        return len(chunk)

    def flush(self):
        self.file.flush()

    def read(self):  # never: np.savez takes what has it for a file
        raise OSError("written only")


def _write(path, fill):
    """The SHA-256 of what `fill(file)` wrote, which is on the disk then."""
    with _open(path, "wb") as file:
        hashed = _Hashed(file)
        try:
            fill(hashed)
        finally:
            hashed.file = io.BytesIO()  # np.savez of a full disk writes on while it is collected
        if not _remote(path):
            _to_disk(file)
    return hashed.digest.hexdigest()


def _write_json(path, value):
    return _write(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder):
    """The rename itself: without, a power cut could take it back."""
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
