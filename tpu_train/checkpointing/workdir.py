"""Work directory of a run: a local folder, or a local copy of a remote one (``gs://``)."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid

import tensorflow as tf

from keras_effnet.atomic_write import remove_leftovers
from keras_effnet.evaluation.output_files import ENDINGS
from keras_effnet.model_card.output_files import RUN_CARD, card_paths
from tpu_train.remote_files import is_remote

MODEL, BEST = "model.keras", "best.keras"
RUNNING = "checkpoint.keras"  # exported while another process trains
FILES = (
    *(MODEL, BEST, RUNNING, "labels.txt", "recipe.json", "metrics.jsonl", "curves.png"),
    *("tensorboard", *card_paths(RUN_CARD)),
    *(f"{name}{ending}" for name in ("evaluation", "test") for ending in ENDINGS),
)
CHECKPOINTS = "checkpoints"


def create(path: str) -> None:
    """Creates `path`; ``ValueError`` if it is not writable."""
    files = tf.io.gfile
    probe = os.path.join(path, f".writable-{uuid.uuid4()}")  # several workers check concurrently
    try:
        if not is_remote(path):  # gfile reports a file in the path's place less clearly
            os.makedirs(path, exist_ok=True)
        files.makedirs(path)
        with files.GFile(probe, "w") as file:
            file.write("")
        files.remove(probe)
    except (OSError, tf.errors.OpError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise ValueError(f"workdir {path!r} is not writable: {why}") from error


def check_not_finished(path: str) -> None:
    """Raises ``ValueError`` for a folder with the files of a run that cannot be resumed."""
    files = tf.io.gfile
    existing = [name for name in FILES if files.exists(os.path.join(path, name))]
    resumable = files.isdir(os.path.join(path, CHECKPOINTS))
    if existing and not resumable:
        raise ValueError(
            f"workdir {path!r} already contains a run ({', '.join(existing)}): choose another one, "
            "or give --overwrite to replace it"
        )


class Workdir:
    """The files of a run: write them to :meth:`local` paths, then :meth:`publish` them.

    With several workers, only the chief `writes` to `path`. What the others write is in a temporary
    folder, and removed at the end.
    """

    def __init__(self, path: str, *, writes: bool = True):
        self.path, self.writes = path, writes
        self.checkpoints = os.path.join(path, CHECKPOINTS)  # shared by all workers
        self._copied = {}  # {name: (size, time)} of the files that the remote folder has
        in_place = writes and not is_remote(path)
        self._local = path if in_place else tempfile.mkdtemp(prefix="effnet-train-")
        tf.io.gfile.makedirs(path)

    def local(self, name: str) -> str:
        """The local path at which to write the file `name`."""
        return os.path.join(self._local, name)

    def prepare(self, *, resume: bool) -> None:
        """Removes the files of an earlier run, or fetches those that a resumed run appends to.

        Then makes the folder of checkpoints, which marks a run that can be resumed, before any
        other file of it.
        """
        if self._local == self.path:
            remove_leftovers(self.path, FILES)
        if not resume and self.writes:
            for name in FILES:
                _remove(os.path.join(self.path, name))
        elif resume and self._local != self.path:
            appended = ("metrics.jsonl", *self._event_files()) if self.writes else ()
            for name in (BEST, *appended):
                remote = os.path.join(self.path, name)
                if tf.io.gfile.exists(remote):
                    os.makedirs(os.path.dirname(self.local(name)), exist_ok=True)
                    _copy(remote, self.local(name))
        tf.io.gfile.makedirs(self.checkpoints)

    def _event_files(self):
        folder = os.path.join(self.path, "tensorboard")
        names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        return [f"tensorboard/{name}" for name in names if ".tfevents." in name]

    def publish(self) -> None:
        """Copies the chief's changed files to a remote folder; does nothing for a local one."""
        if self._local == self.path or not self.writes:
            return
        for folder, _, names in os.walk(self._local):
            for name in names:
                local = os.path.join(folder, name)
                relative = os.path.relpath(local, self._local).replace(os.sep, "/")
                state = os.stat(local).st_size, os.stat(local).st_mtime_ns
                if ".partial" in name or self._copied.get(relative) == state:
                    continue
                remote = f"{self.path.rstrip('/')}/{relative}"
                tf.io.gfile.makedirs(remote.rsplit("/", 1)[0])
                _copy(local, remote)
                self._copied[relative] = state

    def remove(self, name: str) -> None:
        """Removes a file or folder of the run: the chief's both locally and remotely."""
        for folder in {self._local, self.path} if self.writes else {self._local}:
            _remove(os.path.join(folder, name))

    def close(self):
        """Removes what is not in the folder of the run itself."""
        if self._local != self.path:
            self.publish()
            shutil.rmtree(self._local, ignore_errors=True)


def _copy(source, target):
    _remove(target)  # ``ram://`` appends to an existing file even with overwrite=True
    tf.io.gfile.copy(source, target)


def _remove(path):
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)
