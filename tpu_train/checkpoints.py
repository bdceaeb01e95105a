"""What a run needs to go on after it was cut: written aside, verified, then made current.

A checkpoint is a folder ``step-000001234`` with ``variables.npz`` (every variable, in order),
``notes.json`` and ``manifest.json`` (their SHA-256). No TensorFlow.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass

import numpy as np

KEEP = 2  # the newest, and the one before it in case it is torn
_NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after so many steps."""

    step: int
    values: "list[np.ndarray]"  # of all variables, in the order of saving
    notes: dict


def save(folder, checkpoint):
    """Writes a :class:`Checkpoint` into `folder`, whole or not at all; keeps the last two.

    Raises ``OSError`` when it cannot be written; those that were there stay.
    """
    os.makedirs(folder, exist_ok=True)
    final = os.path.join(folder, f"step-{checkpoint.step:09d}")
    partial = os.path.join(folder, f".partial-{checkpoint.step:09d}")
    for name in os.listdir(folder):
        if name.startswith(".partial-"):  # of a run that was killed while it saved
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    os.mkdir(partial)
    try:
        with open(os.path.join(partial, "variables.npz"), "wb") as file:
            np.savez(file, *checkpoint.values)
            _to_disk(file)
        _write_json(os.path.join(partial, "notes.json"), checkpoint.notes)
        manifest = {n: _sha256(os.path.join(partial, n)) for n in ("variables.npz", "notes.json")}
        _write_json(os.path.join(partial, "manifest.json"), manifest)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for _, old in _found(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def latest(folder, say=print):
    """The newest whole :class:`Checkpoint` of a folder, or None; `say` is told of torn ones."""
    for step, path in reversed(_found(folder)):
        try:
            return _read(step, path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            say(f"{path} is torn and is passed over: {error}")
    return None


def _found(folder):
    """[(step, path), ...] of a folder, oldest first, whole or torn."""
    if not os.path.isdir(folder):
        return []
    matches = filter(None, map(_NAME.fullmatch, os.listdir(folder)))
    return sorted((int(m[1]), os.path.join(folder, m[0])) for m in matches)


def _read(step, path):
    with open(os.path.join(path, "manifest.json")) as file:
        manifest = json.load(file)
    for name in ("variables.npz", "notes.json"):
        have = _sha256(os.path.join(path, name))
        if have != manifest[name]:
            raise ValueError(f"{name} has SHA-256 {have}, its manifest says {manifest[name]}")
    with np.load(os.path.join(path, "variables.npz"), allow_pickle=False) as arrays:
        values = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    with open(os.path.join(path, "notes.json")) as file:
        return Checkpoint(step, values, json.load(file))


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        _to_disk(file)


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())
