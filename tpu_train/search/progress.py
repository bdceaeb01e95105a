"""Lines of text about the progress of a search. No TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tpu_train.search.request import SearchRequest
from tpu_train.search.trial_record import COMPLETE, FAILED, TrialRecord, ranked


def describe_start(record: TrialRecord, trials: int) -> str:
    """A trial that starts, or is continued."""
    again = f", continued after phase {max(record.rewards)}" if record.rewards else ""
    return (
        f"trial {record.number} of {trials}: training {record.network} "
        f"({record.parameters:,} parameters, {show_count(record.flops)} multiply-adds){again}"
    )


def describe_end(
    record: TrialRecord, records: Sequence[TrialRecord], request: SearchRequest
) -> str:
    """A trial that is finished, the trials so far, the best one, and the time that is left."""
    if record.state == FAILED:
        result = f"failed: {record.error}"
    else:
        cut = "" if record.state == COMPLETE else f", ended after phase {max(record.rewards)}"
        same = "" if record.duplicate_of is None else f", the result of trial {record.duplicate_of}"
        result = f"reward {record.reward:.4f}, accuracy {record.accuracy:.2%}{cut}{same}"
    finished = sum(r.is_finished for r in records)
    parts = [f"trial {record.number}: {result}", f"{finished} of {request.trials} finished"]
    best = ranked(records)
    if best:
        parts.append(f"best trial {best[0].number} with {best[0].reward:.4f}")
    left = seconds_left(records, request.trials, request.workers)
    if left:
        parts.append(f"{show_seconds(left)} left")
    return "; ".join(parts)


def seconds_left(records: Sequence[TrialRecord], trials: int, workers: int) -> float:
    """An estimate from the mean time of the trainings so far; 0 if there is nothing to estimate."""
    seconds = [r.seconds for r in records if r.seconds is not None]
    left = trials - sum(r.is_finished for r in records)
    return left * sum(seconds) / len(seconds) / workers if seconds and left > 0 else 0.0


def show_seconds(seconds: float) -> str:
    """A duration, rounded for a reader.

    >>> show_seconds(12), show_seconds(200), show_seconds(8000)
    ('12 s', '3 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def show_count(count: float) -> str:
    """A number of multiply-adds or parameters, with three digits.

    >>> show_count(3635072), show_count(2.4e9), show_count(950)
    ('3.64 M', '2.4 G', '950')
    """
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"


def show_step_time(value: float, unit: str) -> str:
    """A step time in its unit.

    >>> show_step_time(0.0123, "seconds"), show_step_time(3635072, "multiply-adds")
    ('12.3 ms', '3.64 M multiply-adds')
    """
    return f"{value * 1e3:.3g} ms" if unit == "seconds" else f"{show_count(value)} {unit}"
