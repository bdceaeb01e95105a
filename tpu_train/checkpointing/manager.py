"""When a run saves itself, from where it goes on, and what it leaves out.

How a loop uses it::

    saves = Saves(folder, identity(recipe, training, evaluation), minutes=10, stop=stop,
                  writes=is_chief, everyone=everyone(strategy))
    begin = saves.find(say)               # a Checkpoint, or None; every worker has the same
    checkpoints.restore(begin, state.variables)
    for first, end in segments(phase.first_step, phase.end_step, saves.skipped): ...
        saves.at(step, state, results, progress, phase_is_over=False)  # after every host call
    saves.evaluated(step, {"averaged": 0.91, "raw": 0.90})          # before the `at` of its step

Several workers call all of these at the same steps: what one of them is told is decided for all.
All read and one writes the same folder, so that it has to be on storage that they share.
"""

import contextlib
import dataclasses
import hashlib
import json
import platform
import time

import keras
import numpy as np
import tensorflow as tf

from tpu_train.checkpointing import storage

MOST_ROLLBACKS = 10  # of --on_nan=skip; a run that needs more has another fault


class StoppedError(RuntimeError):
    """A run that was asked to stop, saved itself, and goes on when it is started again."""


class NotFiniteError(RuntimeError):
    """A variable that is no number any more: it is not saved over good ones."""


class TooManyRollbacksError(RuntimeError):
    """The loss was no number more often than steps may be skipped."""


def alone(numbers):
    """What every worker says, where there is one: one row."""
    return np.asarray([numbers], np.int64)


def everyone(strategy):
    """A function: some integers -> int64 (replicas, integers), what every worker says, in order.

    One small all-gather, in which all workers must take part. Nothing where one process does it
    all: also the hosts of a TPU pod have one.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return alone

    @tf.function
    def gathered(numbers):
        def own(numbers):
            return tf.distribute.get_replica_context().all_gather(numbers[None], axis=0)

        return strategy.experimental_local_results(strategy.run(own, args=(numbers,)))[0]

    return lambda numbers: gathered(tf.constant(numbers, tf.int64)).numpy()


class Saves:
    """When a run is saved, what a checkpoint of it is, and what it remembers of its past.

    `stop()` says why the run should end, or something false while it should not; `minutes` are
    those between two checkpoints; only the one that `writes` does; `everyone` is what
    :func:`everyone` gives.
    """

    def __init__(self, folder, run, minutes, stop, writes, everyone=alone, saved=lambda: None):
        self.folder, self.run, self.minutes = folder, run, minutes
        self.stop, self.writes, self.everyone = stop, writes, everyone
        self.saved = saved
        self.last = time.monotonic()
        self.newest = None  # the step of the last checkpoint
        self.evaluations = []  # [{"step": 120, "averaged": 0.91, ...}, ...]
        self.best = None  # the one of them that has a checkpoint and the highest "averaged"
        self.skipped = []  # [[first step, end step], ...], in the order of their rollbacks
        self.kept = {}  # what else the loop wants to find again

    def find(self, say=print):
        """The newest whole checkpoint, or None; remembers what it notes.

        Raises ``ValueError`` if it is of another run, or if the workers do not find the same.
        """
        found, trouble = None, None
        try:
            found = storage.latest(self.folder, say)
            if found is not None:
                self._check_same_run(found)
        except ValueError as error:  # told when the others know, who would wait for this one
            trouble = error
        self._check_same_for_all(found, trouble)
        notes = {} if found is None else found.notes
        self.newest = None if found is None else found.step
        self.evaluations = list(notes.get("evaluations", ()))
        self.best = notes.get("best")
        # After a rollback, the ranges of this process are more than those of the checkpoint.
        self.skipped += [r for r in notes.get("skipped", ()) if r not in self.skipped]
        self.kept = dict(notes.get("kept", ()))
        if found is not None:
            _compare_versions(notes["versions"], say)
        return found

    def read_best(self):
        """The checkpoint of the best evaluation; None where this worker has saved none."""
        return None if self.best is None else storage.read(self.folder, self.best["step"])

    def evaluated(self, step, figures):
        """Remembers an evaluation; ``figures["averaged"]`` tells the best: it is saved at `at`."""
        self.evaluations.append({"step": step, **figures})

    def skip(self, first, end):
        """Remembers that steps [first, end) are left out: call it, then go back to :meth:`find`.

        Raises :class:`TooManyRollbacksError` after :data:`MOST_ROLLBACKS` of them.
        """
        if len(self.skipped) >= MOST_ROLLBACKS:
            raise TooManyRollbacksError(
                f"The loss is no number at steps {first} to {end - 1}, after {MOST_ROLLBACKS} "
                "times that steps were skipped for it"
            )
        self.skipped.append([first, end])

    def at(self, step, state, results, progress, *, phase_is_over):
        """Saves if it is time; raises :class:`StoppedError` if the run is asked to stop.

        `results` are those of the phases that are over. Raises :class:`NotFiniteError` when a
        variable has NaN or Inf, and does not save then.
        """
        reason = self.stop()
        best = self._best_at(step)
        due = time.monotonic() - self.last > 60 * self.minutes
        rows = self.everyone([bool(reason), bool(due or best != self.best)])
        stops, saves = rows[:, 0].any(), rows[0, 1]  # the first is the chief's
        if not (stops or phase_is_over or saves):
            return
        values = [variable.numpy() for variable in state.variables]  # all workers take part
        names = [storage.name_of(variable) for variable in state.variables]
        _check_finite(step, names, values, self.newest)
        failure = None
        if self.writes:
            notes = {
                "step": step,
                "phase": len(results) + (not phase_is_over),
                "seed": self.run["seed"],
                "run": self.run,
                "run_sha256": _sha256(self.run),
                "versions": _versions(),
                "phases": [dataclasses.asdict(r) for r in results],
                "evaluations": self.evaluations,
                "best": best,
                "skipped": self.skipped,
                "kept": self.kept,
            }
            try:
                storage.save(self.folder, storage.Checkpoint(step, names, values, notes))
                self.newest, self.best = step, best
                self.saved()
            except OSError as error:
                failure = error
                progress.say(f"not saved at step {step}: {error}. {_before(self.newest)}")
        self.last = time.monotonic()
        if stops:
            why = f"Stopped after step {step} ({reason or 'another worker was asked to'})"
            if failure:
                raise StoppedError(
                    f"{why}, which could not be saved: {failure}. {_before(self.newest)}"
                )
            raise StoppedError(f"{why}. The same command goes on there ({self.folder})")

    def _best_at(self, step):
        """The best evaluation, if the run were saved now."""
        new = self.evaluations[-1] if self.evaluations else None
        if new is None or new["step"] != step:
            return self.best
        return new if self.best is None or new["averaged"] > self.best["averaged"] else self.best

    def _check_same_run(self, found):
        theirs = found.notes["run"]
        changed = [
            f"{key} {theirs.get(key)!r}, now {value!r}"
            for key, value in json.loads(json.dumps(self.run)).items()
            if theirs.get(key) != value
        ]
        if changed:
            raise ValueError(
                f"{self.folder} is of another run ({'; '.join(changed)}): go on with the same "
                "flags and data, choose another workdir, or give --overwrite to start anew"
            )

    def _check_same_for_all(self, found, trouble):
        digest = 0 if found is None else int(found.digest[:15], 16)  # fits an int64
        rows = self.everyone([bool(trouble), -1 if found is None else found.step, digest])
        if trouble:
            raise trouble
        if rows[:, 0].any():
            raise ValueError("Another worker does not take its checkpoint: its output says why")
        if len(np.unique(rows, axis=0)) > 1:
            steps = ", ".join("none" if s < 0 else f"step {s}" for s in rows[:, 1])
            raise ValueError(
                f"The workers do not find the same checkpoint in {self.folder} ({steps}): give a "
                "--workdir that all of them share, on a network disk or gs://"
            )


def segments(first_step, end_step, skipped):
    """[(first, end), ...]: the steps of [first_step, end_step) that are not in a skipped range.

    >>> segments(10, 40, [[20, 25], [0, 12]])
    [(12, 20), (25, 40)]
    """
    parts, step = [], first_step
    for first, end in sorted(skipped):
        if step < min(first, end_step):
            parts.append((step, min(first, end_step)))
        step = max(step, end)
    return [*parts, (step, end_step)] if step < end_step else parts


def identity(recipe, training, evaluation):
    """What must be the same for a run to go on."""
    data = hashlib.sha256(training.labels.tobytes() + evaluation.labels.tobytes()).hexdigest()
    return {
        **dataclasses.asdict(recipe),
        "classes": list(training.classes),
        "training_images": training.examples,
        "labels_sha256": data,
    }


def _check_finite(step, names, values, newest):
    for name, value in zip(names, values):
        with contextlib.suppress(TypeError):  # integers and what else is always finite
            if not np.isfinite(value).all():
                raise NotFiniteError(
                    f"{name} has NaN or Inf after step {step}: it is not saved. {_before(newest)}"
                )


def _before(newest):
    if newest is None:
        return "There is no checkpoint before it: the same command begins anew"
    return f"The checkpoint of step {newest} is kept"


def _versions():
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _compare_versions(theirs, say):
    for name, own in _versions().items():
        if theirs.get(name) != own:
            say(
                f"the checkpoint was written with {name} {theirs.get(name)}, this is {own}: what "
                "follows is not equal to the bit"
            )


def _sha256(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
