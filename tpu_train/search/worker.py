"""A worker of a study: takes trials, trains them, and records their results.

All workers see the same trials. A trial that is not finished belongs to the worker that holds the
lock of its folder. The lock of a worker that has ended is free, and any other worker continues the
trial from its last checkpoint. No TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from keras_effnet.search_reward import training_aware_reward
from keras_effnet.search_space import canonical_form
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.search import progress
from tpu_train.search.limits import LimitedCompoundSpace, LimitedSpace
from tpu_train.search.optuna_study import LostConnectionError, StoredStudy, is_pruned
from tpu_train.search.output_files import write_outputs
from tpu_train.search.request import SearchRequest
from tpu_train.search.results_cache import ResultsCache
from tpu_train.search.sampling import draw
from tpu_train.search.settings import known_trials
from tpu_train.search.study_opening import workdir_lock
from tpu_train.search.trial_folder import remove_checkpoints
from tpu_train.search.trial_record import (
    COMPLETE,
    FAILED,
    PRUNED,
    TrialFailedError,
    TrialRecord,
)

if TYPE_CHECKING:  # it imports TensorFlow
    from tpu_train.search.trial_training import TrialTrainer

_POLL_SECONDS = 1.0
_MOST_FAILURES = 3  # of trials, before any has been completed


class SearchError(RuntimeError):
    """The search cannot continue."""


@dataclass(frozen=True)
class Worker:
    """What a worker works with."""

    request: SearchRequest
    study: StoredStudy
    limited: LimitedSpace | LimitedCompoundSpace
    trainer: TrialTrainer
    cache: ResultsCache
    stop: Callable[[], str]  # the reason to stop now, or ""

    def run(self) -> None:
        """Works until the study has all its trials.

        Raises :class:`~tpu_train.checkpointing.preemption.StoppedError` after a stop, with a
        checkpoint of the trial in progress, and :class:`SearchError` if all trials fail.
        """
        reference = self._reference()
        while True:
            self._check_stop()
            records = self.study.records()
            if len(records) >= self.request.trials and all(r.is_finished for r in records):
                break
            _check_failures(records)
            if not (self._work_on_one(records, reference) or self._add_trial()):
                time.sleep(_POLL_SECONDS)
        self._complete(reference)

    def _add_trial(self):
        """Adds a trial, if one is missing that can be drawn now; whether it did."""
        with workdir_lock(self.request):
            records = self.study.records()
            number = len(records)
            known = records[: known_trials(self.request.settings, number)]
            if number >= self.request.trials or not all(r.is_finished for r in known):
                return False
            choices, state = draw(self.request.settings, self.limited, number, records)
            try:
                self.study.add(choices, self._facts(choices, state))
            except LostConnectionError:
                time.sleep(_POLL_SECONDS)  # whether it exists is seen when the server answers
        return True

    def _facts(self, choices, sampler_state):
        variant, point = self.limited.space.point(choices), self.limited.cost(choices)
        return {
            "network": variant.name,
            "blocks": canonical_form(variant),
            "parameters": point.parameters,
            "flops": point.flops,
            "step_time_source": self.trainer.timer.source,
            "step_time_unit": self.trainer.timer.unit,
            "device": self.trainer.timer.device,
            "sampler_state": sampler_state,
        }

    def _work_on_one(self, records, reference):
        """Works on the first trial that no other worker works on; whether there was one."""
        for r in records:
            if r.is_finished:
                continue
            original = _original(r, records)
            if original is not None and not original.is_finished:
                continue
            lock = self._lock(r.number)
            if lock is None:
                continue
            with lock:
                current = self.study.records()[r.number]
                if not current.is_finished:
                    done = self._run_trial(current, original, records, reference)
                    self._finish(done, reference)
            return True
        return False

    def _lock(self, number):
        folder = self.request.trial_folder(number)
        os.makedirs(folder, exist_ok=True)
        lock = FileLock(os.path.join(folder, ".lock"))
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            return None

    def _run_trial(self, record, original, records, reference):
        """The record of a trial after its training, with its final state."""
        if original is not None:
            return self._repeat(record, original)
        self._log(progress.describe_start(record, self.request.trials))
        start, folder = time.monotonic(), self.request.trial_folder(record.number)
        variant = self.limited.space.point(record.choices)
        stored = self.cache.read(self.limited.space.network_key(record.choices))
        try:
            record = self._measure(record, variant, stored.get("step_time"))
            trial = _Trial(
                self,
                record,
                records[: known_trials(self.request.settings, record.number)],
                reference,
            )
            if trial.is_decided():
                completed = not trial.is_pruned()
            elif stored:
                completed = all(trial.continues(*pair) for pair in stored["accuracies"].items())
            else:
                completed = self.trainer.train(folder, variant, trial.continues)
        except TrialFailedError as error:
            record = dataclasses.replace(record, state=FAILED, error=str(error))
            self.study.note(record.number, {"error": record.error})
            return record
        seconds = (record.seconds or 0.0) + time.monotonic() - start
        self.study.note(record.number, {"seconds": seconds})
        return dataclasses.replace(
            trial.record,
            state=COMPLETE if completed else PRUNED,
            reward=trial.record.rewards[max(trial.record.rewards)],
            seconds=seconds,
        )

    def _repeat(self, record, original):
        """The record of a trial with the network and the result of an earlier one."""
        copied = {"duplicate_of": original.number, "error": original.error}
        if original.step_time is not None:
            copied["step_time"] = original.step_time
        self.study.note(record.number, copied)
        for phase, accuracy in original.accuracies.items():
            self.study.report(record.number, phase, accuracy, original.rewards[phase])
        return dataclasses.replace(
            record,
            **copied,
            state=original.state,
            reward=original.reward,
            accuracies=original.accuracies,
            rewards=original.rewards,
        )

    def _measure(self, record, variant, stored):
        if record.step_time is not None:
            return record
        if stored is None:
            stored = self.trainer.measure(self.request.trial_folder(record.number), variant)
        self.study.note(record.number, {"step_time": stored})
        return dataclasses.replace(record, step_time=stored)

    def _finish(self, record, reference):
        if record.state == COMPLETE and record.duplicate_of is None:
            self.cache.write(self.limited.space.network_key(record.choices), record)
        reward = record.reward if record.state == COMPLETE else None
        self.study.finish(record.number, record.state, reward)
        remove_checkpoints(self.request.trial_folder(record.number))
        with workdir_lock(self.request):
            records = self.study.records()
            write_outputs(self.request, records, reference)
        self._log(progress.describe_end(record, records, self.request))

    def _reference(self):
        """{"step_time", "parameters", ...} of the space's base network, to which costs relate."""
        name = "reference"
        recorded = self.study.attributes().get(name)
        if recorded is None:
            with workdir_lock(self.request):
                recorded = self.study.attributes().get(name)
                if recorded is None:
                    recorded = self._measure_reference()
                    self.study.set_attribute(name, recorded)
        if recorded["device"] != self.trainer.timer.device:
            raise ValueError(
                f"the step times of this study are of {recorded['device']}, and this worker has "
                f"{self.trainer.timer.device}: a study does not mix them. Use the same device, "
                "--step_time=flops or a TPU's, or another workdir"
            )
        return recorded

    def _measure_reference(self):
        base = self.limited.space.base
        folder = os.path.join(self.request.workdir, "reference")
        try:
            step_time = self.trainer.measure(folder, base)
        except TrialFailedError as error:
            raise SearchError(f"no step time of {base.name}, the base network: {error}") from error
        return {
            "network": base.name,
            "parameters": self.limited.base_parameters(),
            "step_time": step_time,
            "source": self.trainer.timer.source,
            "unit": self.trainer.timer.unit,
            "device": self.trainer.timer.device,
        }

    def _complete(self, reference):
        """Does what a worker left out that ended right after it had recorded a result."""
        with workdir_lock(self.request):
            records = self.study.records()
            write_outputs(self.request, records, reference)
        for r in records:
            if os.path.isdir(os.path.join(self.request.trial_folder(r.number), "checkpoints")):
                lock = self._lock(r.number)
                if lock is not None:
                    with lock:
                        remove_checkpoints(self.request.trial_folder(r.number))

    def _check_stop(self):
        reason = self.stop()
        if reason:
            raise StoppedError(f"Stopped ({reason}): the same command resumes")

    def _log(self, line):
        print(line, file=sys.stderr, flush=True)


class _Trial:
    """A trial in progress: reports every phase, and decides whether to continue."""

    def __init__(self, worker: Worker, record: TrialRecord, history: Sequence, reference: dict):
        self._worker, self.record = worker, record
        self._history, self._reference = history, reference

    def is_decided(self) -> bool:
        """Whether all phases are reported, or the last report ends the trial."""
        return self._last() == self._worker.request.settings.recipe.phases or self.is_pruned()

    def is_pruned(self) -> bool:
        """Whether the trial ends after the last phase that was reported."""
        settings, last = self._worker.request.settings, self._last()
        if settings.pruner == "none" or not 0 < last < settings.recipe.phases:
            return False
        return is_pruned(self._worker.limited.space, self.record, last, self._history)

    def continues(self, phase: int, accuracy: float) -> bool:
        """Reports a phase; whether the trial is not pruned after it."""
        if phase in self.record.rewards:  # reported by a worker that ended before its checkpoint
            return not self.is_pruned()
        settings = self._worker.request.settings
        reward = training_aware_reward(
            accuracy,
            self.record.step_time / self._reference["step_time"],
            self.record.parameters / self._reference["parameters"],
            w=settings.step_time_exponent,
            v=settings.parameters_exponent,
        )
        self._worker.study.report(self.record.number, phase, accuracy, reward)
        self.record = dataclasses.replace(
            self.record,
            accuracies={**self.record.accuracies, phase: accuracy},
            rewards={**self.record.rewards, phase: reward},
        )
        return not self.is_pruned()

    def _last(self):
        return max(self.record.rewards, default=0)


def _original(record, records):
    """The first trial with the same network, if that is an earlier one."""
    for other in records[: record.number]:
        if other.choices == record.choices:
            return other
    return None


def _check_failures(records):
    failed = [r for r in records if r.state == FAILED]
    if len(failed) >= _MOST_FAILURES and not any(r.state in (COMPLETE, PRUNED) for r in records):
        raise SearchError(
            f"the first {len(failed)} trials failed, the last one: {failed[-1].error}. Correct the "
            "cause, and start again with another --workdir"
        )
