"""The trials of a study as a CSV table. No TensorFlow.

It has no times of day and no durations: the same study gives the same file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tpu_train.search.trial_record import TrialRecord, pareto_front, ranked

COLUMNS = (
    *("rank", "trial", "state", "network", "reward", "accuracy", "pareto", "parameters", "flops"),
    *("step_time", "step_time_unit", "step_time_source", "device", "duplicate_of", "blocks"),
    "error",
)


def format_leaderboard(records: Sequence[TrialRecord]) -> str:
    """CSV: complete trials by reward, then duplicates, pruned and failed ones by number."""
    best = ranked(records)
    front = {r.number for r in pareto_front(records)}
    placed = {r.number for r in best}
    rest = [r for r in records if r.is_finished and r.number not in placed]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, r in [*enumerate(best, start=1), *(("", r) for r in rest)]:
        writer.writerow(
            [
                rank,
                r.number,
                r.state,
                r.network,
                _number(r.reward),
                _number(r.accuracy),
                int(r.number in front),
                r.parameters,
                r.flops,
                _number(r.step_time),
                r.step_time_unit,
                r.step_time_source,
                r.device,
                "" if r.duplicate_of is None else r.duplicate_of,
                r.blocks,
                r.error,
            ]
        )
    return out.getvalue()


def _number(value):
    return "" if value is None else f"{value:.9g}"
