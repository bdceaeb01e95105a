"""The files of a study: leaderboard, plots, page, and the best network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from keras_effnet.atomic_write import write_files
from keras_effnet.space_lookup import find_space
from keras_effnet.variant_file import write_variant
from tpu_train.search import charts
from tpu_train.search.leaderboard import format_leaderboard
from tpu_train.search.report_page import render_page
from tpu_train.search.request import SearchRequest
from tpu_train.search.trial_record import TrialRecord, ranked

BEST, LEADERBOARD, PAGE = "best.json", "leaderboard.csv", "report.html"
_PARETO, _REWARDS = "pareto.svg", "rewards.svg"
FILES = (BEST, LEADERBOARD, PAGE, _PARETO, _REWARDS)


def write_outputs(
    request: SearchRequest, records: Sequence[TrialRecord], reference: Mapping
) -> None:
    """Writes all files of a study into its workdir; each is complete or as it was."""
    files = {
        LEADERBOARD: format_leaderboard(records),
        _PARETO: charts.pareto_chart(records, "step_time"),
        _REWARDS: charts.reward_chart(records),
        PAGE: render_page(request.settings, records, reference, request.data),
    }
    write_files(
        {os.path.join(request.workdir, name): content for name, content in files.items() if content}
    )
    best = ranked(records)
    if best:
        _write_best(request, best[0], reference)


def _write_best(request, record, reference):
    write_variant(
        os.path.join(request.workdir, BEST),
        find_space(request.settings.space).point(record.choices),
        trial=record.number,
        reward=record.reward,
        accuracy=record.accuracy,
        parameters=record.parameters,
        flops=record.flops,
        step_time=record.step_time,
        step_time_unit=record.step_time_unit,
        step_time_source=record.step_time_source,
        device=record.device,
        reference=dict(reference),
    )
