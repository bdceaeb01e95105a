"""Where a run leaves its files: a local folder, or one of gs:// that a local one is copied to."""

import os
import shutil
import tempfile
import uuid

import tensorflow as tf

BEST = "best.keras"
FILES = (
    *("model.keras", BEST, "labels.txt", "recipe.json", "metrics.jsonl", "curves.png"),
    "tensorboard",
)
CHECKPOINTS = "checkpoints"


def check(path, *, overwrite):
    """Raises ``ValueError`` if `path` cannot be written to or holds a finished run; makes it."""
    files = tf.io.gfile
    probe = os.path.join(path, f".writable-{uuid.uuid4()}")  # several workers look at once
    try:
        if not _remote(path):  # gfile's message for a file in the way is of another kind
            os.makedirs(path, exist_ok=True)
        files.makedirs(path)
        with files.GFile(probe, "w") as file:
            file.write("")
        files.remove(probe)
    except (OSError, tf.errors.OpError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise ValueError(f"workdir {path!r} cannot be written to: {why}") from error
    taken = [name for name in FILES if files.exists(os.path.join(path, name))]
    goes_on = files.isdir(os.path.join(path, CHECKPOINTS))
    if taken and not overwrite and not goes_on:
        raise ValueError(
            f"workdir {path!r} holds a run already ({', '.join(taken)}): choose another one, or "
            "give --overwrite to replace it"
        )


class Workdir:
    """A run's files, to be written at :meth:`local` paths; :meth:`publish` makes them seen.

    Of several workers only one writes to `path` itself; the others, whose names are given as
    `worker`, have a hidden folder in it for files that they write in vain.
    """

    def __init__(self, path, worker):
        self.path = os.path.join(path, f".{worker}") if worker else path
        self.checkpoints = os.path.join(path, CHECKPOINTS)  # of all workers
        self._copied = {}  # {name: (size, time)} of what the remote folder has
        self._local = tempfile.mkdtemp(prefix="effnet-train-") if _remote(path) else self.path
        tf.io.gfile.makedirs(self.path)

    def local(self, name):
        """The path to write a file at."""
        return os.path.join(self._local, name)

    def begin(self, *, anew):
        """Removes a former run's files, or fetches what a run that goes on adds to."""
        if anew:
            for name in FILES:
                _remove(os.path.join(self.path, name))
        elif self._local != self.path:
            theirs = os.path.join(self.path, "metrics.jsonl")
            if tf.io.gfile.exists(theirs):
                _copy(theirs, self.local("metrics.jsonl"))

    def publish(self):
        """Copies what has changed to a remote folder; nothing to do for a local one."""
        if self._local == self.path:
            return
        for folder, _, names in os.walk(self._local):
            for name in names:
                mine = os.path.join(folder, name)
                relative = os.path.relpath(mine, self._local).replace(os.sep, "/")
                state = os.stat(mine).st_size, os.stat(mine).st_mtime_ns
                if ".partial" in name or self._copied.get(relative) == state:
                    continue
                theirs = f"{self.path.rstrip('/')}/{relative}"
                tf.io.gfile.makedirs(theirs.rsplit("/", 1)[0])
                _copy(mine, theirs)
                self._copied[relative] = state

    def remove(self, name):
        """Removes a file of the run, wherever it is."""
        for folder in {self._local, self.path}:
            _remove(os.path.join(folder, name))

    def close(self):
        """Removes what is only here for the way to a remote folder."""
        if self._local != self.path:
            self.publish()
            shutil.rmtree(self._local, ignore_errors=True)


def _remote(path):
    return "://" in path


def _copy(source, target):
    _remove(target)  # ``ram://`` would add to what is there, whatever it is told
    tf.io.gfile.copy(source, target)


def _remove(path):
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)
