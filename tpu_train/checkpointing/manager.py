"""Checkpoint manager: when to save, what a checkpoint records, which one to restore.

How a training loop uses it::

    manager = CheckpointManager(
        folder, identify_run(recipe, training, evaluation), save_minutes=10,
        writes=is_chief, gather=make_gather(strategy),
    )
    restored = manager.restore_latest(variables, log)  # None: start from scratch
    ...
    if manager.should_save(is_best):                   # after every host call
        manager.save(step, variables, extra_state, is_best=is_best)

Several workers must call :meth:`restore_latest` and :meth:`save` together, at the same steps. All
of them read the folder and one writes it, so it must be on storage that they share.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tpu_train.checkpointing import storage
from tpu_train.checkpointing.run_identity import (
    check_same_run,
    log_version_changes,
    software_versions,
)


class NotFiniteError(RuntimeError):
    """A variable has NaN or Inf, so the checkpoint is not written over a good one."""


@dataclass(frozen=True)
class Restored:
    """The step of the restored checkpoint and the `extra_state` that was saved with it."""

    step: int
    extra_state: dict


class CheckpointManager:
    """Saves and restores the checkpoints of one run.

    Args:
        folder: where the checkpoints are.
        run: the identity of the run (:func:`~tpu_train.checkpointing.run_identity.identify_run`);
            checkpoints of another one are refused. Its "seed" is recorded.
        save_minutes: between two checkpoints.
        writes: whether this worker writes; all but the chief do not.
        gather: exchanges integers between workers
            (:func:`tpu_train.training.distribution.make_gather`).
        after_save: called after every written checkpoint.
    """

    def __init__(
        self,
        folder: str,
        run: Mapping,
        save_minutes: float,
        *,
        writes: bool,
        gather: Callable[[Sequence[int]], np.ndarray],
        after_save: Callable[[], object] = lambda: None,
    ):
        self.folder, self.run, self.save_minutes = folder, run, save_minutes
        self.writes, self.gather, self.after_save = writes, gather, after_save
        self.latest_step = None  # of the newest checkpoint
        self.best_step = None  # of the checkpoint of the best evaluation
        self._last_save = time.monotonic()

    def restore_latest(
        self, variables: Sequence[tf.Variable], log: Callable[[str], object] = print
    ) -> Restored | None:
        """Assigns the newest intact checkpoint to `variables`; None if there is no checkpoint.

        Corrupt checkpoints and changed software versions are reported through `log`. Raises
        ``ValueError`` if the checkpoint belongs to another run or another network, if all are
        corrupt, or if the workers find different ones.
        """
        checkpoint, error = None, None
        try:
            checkpoint = storage.latest(self.folder, log)
            if checkpoint is not None:
                check_same_run(checkpoint.notes["run"], self.run, self.folder)
        except ValueError as invalid:  # raised after the exchange, for which the others wait
            error = invalid
        self._check_same_for_all_workers(checkpoint, error)
        if checkpoint is None:
            self.latest_step, self.best_step = None, None
            return None
        storage.restore(checkpoint, variables)
        self.latest_step = checkpoint.step
        self.best_step = (checkpoint.notes["best"] or {}).get("step")
        log_version_changes(checkpoint.notes["versions"], log)
        return Restored(checkpoint.step, checkpoint.notes["extra_state"])

    def should_save(self, is_best: bool = False) -> bool:
        """Whether `save_minutes` are over, or the current step has the best evaluation so far."""
        return is_best or time.monotonic() - self._last_save > 60 * self.save_minutes

    def save(
        self,
        step: int,
        variables: Sequence[tf.Variable],
        extra_state: Mapping,
        *,
        is_best: bool = False,
    ) -> None:
        """Writes a checkpoint: `variables`, and `extra_state`, which must be JSON.

        If it `is_best`, it is kept until a better one is saved. Workers that do not write take part
        in reading the variables. Raises :class:`NotFiniteError` if a variable has NaN or Inf, and
        ``OSError`` if the checkpoint cannot be written; earlier checkpoints stay in both cases.
        """
        values = [variable.numpy() for variable in variables]
        names = [storage.name_of(variable) for variable in variables]
        self._check_finite(step, names, values)
        try:
            if self.writes:
                self._write(step, names, values, extra_state, is_best)
        finally:
            self._last_save = time.monotonic()

    def describe_latest(self) -> str:
        """A sentence for error messages: from which step the run can be resumed."""
        if self.latest_step is None:
            return "There is no earlier checkpoint: the same command starts from scratch"
        return f"The checkpoint of step {self.latest_step} is kept"

    def _write(self, step, names, values, extra_state, is_best):
        best_step = step if is_best else self.best_step
        notes = {
            "step": step,
            "seed": self.run["seed"],
            "run": self.run,
            "run_sha256": hashlib.sha256(json.dumps(self.run, sort_keys=True).encode()).hexdigest(),
            "versions": software_versions(),
            "best": None if best_step is None else {"step": best_step},
            "extra_state": extra_state,
        }
        storage.save(self.folder, storage.Checkpoint(step, names, values, notes))
        self.latest_step, self.best_step = step, best_step
        self.after_save()

    def _check_finite(self, step, names, values):
        for name, value in zip(names, values):
            with contextlib.suppress(TypeError):  # dtypes without NaN, such as strings
                if not np.isfinite(value).all():
                    raise NotFiniteError(
                        f"{name} has NaN or Inf after step {step} and is not saved. "
                        f"{self.describe_latest()}"
                    )

    def _check_same_for_all_workers(self, checkpoint, error):
        step = -1 if checkpoint is None else checkpoint.step
        digest = 0 if checkpoint is None else int(checkpoint.digest[:15], 16)  # fits an int64
        rows = self.gather([bool(error), step, digest])
        if error:
            raise error
        if rows[:, 0].any():
            raise ValueError("Another worker cannot use its checkpoint: see that worker's output")
        if len(np.unique(rows, axis=0)) > 1:
            steps = ", ".join("none" if s < 0 else f"step {s}" for s in rows[:, 1])
            raise ValueError(
                f"The workers find different checkpoints in {self.folder} ({steps}): give a "
                "--workdir that all of them share, on a network disk or gs://"
            )
