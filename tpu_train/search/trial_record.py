"""The record of a trial, the ranking of trials and their Pareto front. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"


class TrialFailedError(RuntimeError):
    """A network has no result; the search continues with the next one."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial of a study: a network, and what is known about it so far."""

    number: int  # from 0
    state: str = RUNNING  # also of a trial that no worker works on at the moment
    reward: float | None = None  # of the last finished phase, if pruned
    choices: tuple = ()  # what the `point` of the search space takes
    network: str = ""  # name of the variant
    blocks: str = ""  # its canonical form
    parameters: int | None = None
    flops: int | None = None  # multiply-adds of an image
    step_time: float | None = None
    step_time_source: str = ""
    step_time_unit: str = ""
    device: str = ""
    accuracies: dict[int, float] = field(default_factory=dict)  # by phase, from 1; minival, EMA
    rewards: dict[int, float] = field(default_factory=dict)  # by phase
    duplicate_of: int | None = None  # number of the trial whose result this one has
    seconds: float | None = None  # of the training
    error: str = ""  # why it failed
    sampler_state: dict = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether nothing about the trial changes any more."""
        return self.state != RUNNING

    @property
    def accuracy(self) -> float | None:
        """Accuracy in [0, 1] after the last finished phase."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else None


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials without duplicates, best reward first."""
    complete = [r for r in records if r.state == COMPLETE and r.duplicate_of is None]
    return sorted(complete, key=lambda r: (-r.reward, r.number))


def best_so_far(records: Sequence[TrialRecord]) -> list[tuple[int, float]]:
    """(trial number, best reward of the complete trials up to it), for each complete trial."""
    points, best = [], None
    for r in records:
        if r.state == COMPLETE:
            best = r.reward if best is None else max(best, r.reward)
            points.append((r.number, best))
    return points


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The ranked trials that no other one beats: accuracy, step time and parameters.

    Another one beats a trial if it is at least as good in all three and better in one.

    >>> def trial(number, accuracy, step_time):
    ...     return TrialRecord(number, COMPLETE, accuracy, accuracies={1: accuracy},
    ...                        step_time=step_time, parameters=1)
    >>> [r.number for r in pareto_front([trial(0, 0.5, 9), trial(1, 0.6, 9), trial(2, 0.4, 3)])]
    [1, 2]
    """
    candidates = ranked(records)
    return [r for r in candidates if not any(_beats(other, r) for other in candidates)]


def _beats(a, b):
    costs = (-a.accuracy, a.step_time, a.parameters), (-b.accuracy, b.step_time, b.parameters)
    return all(x <= y for x, y in zip(*costs)) and costs[0] != costs[1]
