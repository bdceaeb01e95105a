"""Optuna's storages, samplers and pruners. The only importer of optuna.

A study of Optuna only stores the trials. What is drawn, and what is pruned, is computed in a study
in memory that holds a stated set of earlier trials: a function of their records and of a seed,
which neither a restart nor the number of workers changes. A seeded sampler of Optuna would repeat
its draws after a restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from tpu_train.search.limits import Choices, Space
from tpu_train.search.trial_record import COMPLETE, FAILED, PRUNED, RUNNING, TrialRecord

_STATES = {
    COMPLETE: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
    RUNNING: TrialState.RUNNING,
}
_FACTS = (
    *("network", "blocks", "parameters", "flops", "step_time", "step_time_source"),
    *("step_time_unit", "device", "duplicate_of", "seconds", "error", "sampler_state"),
)
_REDUCTION_FACTOR = 2  # of successive halving: the better half of the trials continues
_LOST_SECONDS = 600.0  # for which a lost server is waited for
_CONNECTION_ERRORS = (StorageInternalError, sqlalchemy.exc.OperationalError)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class LostConnectionError(RuntimeError):
    """The server of the storage did not answer; whether it has done what was asked is unknown."""


# --- a study in a storage ------------------------------------------------------------------------


class StoredStudy:
    """The trials of a study, in a storage that several processes share.

    Args:
        storage: path of a journal file, or a database URL as SQLAlchemy has them.
        name: of the study in the storage.
        space: its search space.

    Raises ``ValueError`` for a storage that cannot be opened.
    """

    def __init__(self, storage: str, name: str, space: Space):
        self._space = space
        self._distributions = _distributions(space)
        self._storage = opened = _open_storage(storage)
        with _readable_errors(storage):
            try:
                self._study = optuna.create_study(
                    storage=opened,
                    study_name=name,
                    direction="maximize",
                    sampler=RandomSampler(),
                    pruner=optuna.pruners.NopPruner(),
                )
            except DuplicatedStudyError:
                self._study = optuna.load_study(
                    storage=opened, study_name=name, sampler=RandomSampler()
                )

    def has_trials(self) -> bool:
        """Whether the study has trials, of this program or another one."""
        return self._patiently(lambda: bool(self._study.get_trials(deepcopy=False)))

    def attributes(self) -> dict:
        """What is recorded about the study as a whole."""
        return self._patiently(lambda: dict(self._study.user_attrs))

    def set_attribute(self, name: str, value: object) -> None:
        """Records a JSON value about the study as a whole."""
        self._patiently(lambda: self._study.set_user_attr(name, value))

    def records(self) -> list[TrialRecord]:
        """All trials, by number."""
        trials = self._patiently(lambda: self._study.get_trials(deepcopy=False))
        return [_record(self._space, trial) for trial in trials]

    def add(self, choices: Choices, facts: Mapping) -> None:
        """Adds a trial with a network and fields of :class:`TrialRecord`, in one write.

        Raises :class:`LostConnectionError` if the trial may exist or not.
        """
        _check_names(facts)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=self._space.to_dimensions(choices),
            distributions=self._distributions,
            user_attrs=dict(facts),
        )
        try:
            self._study.add_trial(trial)
        except _CONNECTION_ERRORS as error:
            self._drop_connection()
            raise LostConnectionError(_first_line(error)) from error

    def note(self, number: int, facts: Mapping) -> None:
        """Records fields of :class:`TrialRecord`."""
        _check_names(facts)
        for name, value in facts.items():
            self._patiently(lambda n=name, v=value: self._trial(number).set_user_attr(n, v))

    def report(self, number: int, phase: int, accuracy: float, reward: float) -> None:
        """Records the accuracy and the reward of a trial after a phase (from 1)."""

        def set_values():
            trial = self._trial(number)
            trial.set_user_attr(f"accuracy_{phase}", accuracy)
            if phase not in self._study.get_trials(deepcopy=False)[number].intermediate_values:
                trial.report(reward, phase)

        self._patiently(set_values)

    def finish(self, number: int, state: str, reward: float | None = None) -> None:
        """Ends a trial; `reward` belongs to a complete one."""
        self._patiently(
            lambda: self._study.tell(number, reward, _STATES[state], skip_if_finished=True)
        )

    def _patiently(self, call):
        """The result of `call`, repeated while the server of the storage does not answer."""
        start, logged, wait = time.monotonic(), False, 0.5
        while True:
            try:
                return call()
            except _CONNECTION_ERRORS as error:
                self._drop_connection()
                if time.monotonic() - start > _LOST_SECONDS:
                    raise LostConnectionError(
                        f"no answer of the storage for {_LOST_SECONDS / 60:.0f} minutes: "
                        f"{_first_line(error)}. Start its server; the same command resumes"
                    ) from error
                if not logged:
                    print(f"waiting for the storage: {_first_line(error)}", file=sys.stderr)
                    logged = True
                time.sleep(wait)
                wait = min(2 * wait, 15.0)

    def _drop_connection(self):
        """Ends a transaction whose connection is lost, so that the next call opens another one."""
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            self._storage.remove_session()

    def _trial(self, number):
        frozen = self._study.get_trials(deepcopy=False)[number]
        return optuna.trial.Trial(self._study, frozen._trial_id)


def _check_names(facts):
    unknown = set(facts) - set(_FACTS)
    if unknown:
        raise ValueError(f"{unknown} are not fields of a trial: {_FACTS}")


def _open_storage(storage):
    if "://" not in storage:
        _repair_journal(storage)
        try:
            return optuna.storages.JournalStorage(JournalFileBackend(storage))
        except (LookupError, TypeError, ValueError, AssertionError) as error:  # of its entries
            raise _damaged(storage, f"an entry cannot be read ({_first_line(error)})") from error
    with _readable_errors(storage):
        # A connection for each transaction: trials are long, and a server may restart meanwhile.
        return optuna.storages.RDBStorage(
            storage, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool}
        )


def _repair_journal(path):
    """Ends a journal at its last complete line; a loss of power may leave a part of a line.

    Raises ``ValueError`` for a file that is not a journal, and for one with a damaged line.
    """
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file: delete it, or choose another workdir")
    lock = JournalFileSymlinkLock(path)
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                file.truncate(end)
    finally:
        lock.release()
    for number, line in enumerate(content[:end].splitlines(), start=1):
        if not _is_journal_line(line):
            raise _damaged(path, f"line {number} cannot be read")


def _damaged(path, reason):
    return ValueError(
        f"{path} is not a journal of studies, or is damaged: {reason}. Restore the file, or start "
        "again with another workdir; a --cache keeps the results of finished trials"
    )


def _is_journal_line(line):
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and isinstance(entry.get("op_code"), int)


@contextlib.contextmanager
def _readable_errors(storage):
    """Raises ``ValueError`` for a storage that does not exist, does not answer or is none."""
    try:
        yield
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
        raise ValueError(
            f"cannot open the storage {without_password(storage)}: {_first_line(error)}. Give a "
            "database URL, e.g. --storage=postgresql+psycopg://user@host/database, of a server "
            "that runs and whose driver is installed; without --storage, a file in the workdir is "
            "used"
        ) from error


def without_password(storage: str) -> str:
    """A database URL whose password is not shown."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", storage)


def _first_line(error):
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def _record(space, trial):
    attributes = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=next(name for name, state in _STATES.items() if state == trial.state),
        reward=trial.value if trial.values else None,
        choices=space.from_dimensions(trial.params),
        accuracies={
            phase: attributes[f"accuracy_{phase}"]
            for phase in trial.intermediate_values
            if f"accuracy_{phase}" in attributes
        },
        rewards=dict(trial.intermediate_values),
        **{name: attributes[name] for name in _FACTS if name in attributes},
    )


def _distributions(space):
    return {
        name: optuna.distributions.CategoricalDistribution(options)
        for name, options in space.dimensions().items()
    }


# --- draws and pruning ---------------------------------------------------------------------------


def proposals(
    space: Space,
    sampler: str,
    *,
    population: int,
    seeds: Iterator[int],
    history: Sequence[TrialRecord],
    pending: Sequence[TrialRecord],
) -> Iterator[tuple[tuple, dict]]:
    """Yields (choices, state of the sampler to record) for a new trial, one for each of `seeds`.

    `history` are finished trials; `pending` are trials whose results are not used.
    """
    study, distributions = _study_in_memory(), _distributions(space)
    for record in history:
        study.add_trial(_frozen(space, record, record.state))
    for record in pending:
        study.add_trial(_frozen(space, record, RUNNING))
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.sampler = _make_sampler(sampler, seed, population)
            study.ask(distributions)
        trial = study.get_trials(deepcopy=False)[-1]
        state = {k: v for k, v in trial.system_attrs.items() if k.endswith(":generation")}
        yield space.from_dimensions(trial.params), state


def is_pruned(
    space: Space, record: TrialRecord, phase: int, history: Sequence[TrialRecord]
) -> bool:
    """Whether successive halving ends a trial after `phase`, by the rewards of `history`."""
    study = _study_in_memory()
    for other in history:
        study.add_trial(_frozen(space, other, other.state, _rungs(other, None)))
    study.add_trial(_frozen(space, record, RUNNING, _rungs(record, phase), last_phase=phase))
    pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=_REDUCTION_FACTOR
    )
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])


def _study_in_memory():
    return optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())


def _make_sampler(name, seed, population):
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "nsga2":
        return NSGAIISampler(population_size=population, seed=seed)
    return TPESampler(seed=seed, n_startup_trials=population)


def _rungs(record, before):
    """Optuna's notes on the phases at which a trial has been compared, those before a phase."""
    rungs, phase = {}, 1
    while phase in record.rewards and (before is None or phase < before):
        rungs[f"completed_rung_{len(rungs)}"] = record.rewards[phase]
        phase *= _REDUCTION_FACTOR
    return rungs


def _frozen(space, record, state, attributes=None, last_phase=None):
    rewards = {k: v for k, v in record.rewards.items() if not last_phase or k <= last_phase}
    return optuna.trial.create_trial(
        state=_STATES[state],
        value=record.reward if state in (COMPLETE, PRUNED) else None,
        params=space.to_dimensions(record.choices),
        distributions=_distributions(space),
        intermediate_values=rewards,
        system_attrs={**record.sampler_state, **(attributes or {})},
    )
