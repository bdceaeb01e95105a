"""Which network a trial has: a function of the seed, the trial's number and earlier results."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

from tpu_train.search.limits import Choices, LimitedCompoundSpace, LimitedSpace
from tpu_train.search.optuna_study import proposals
from tpu_train.search.settings import SearchSettings, known_trials
from tpu_train.search.trial_record import TrialRecord

_PROPOSALS = 40  # of the sampler, until one is under the limits and in no earlier trial


def draw(
    settings: SearchSettings,
    limited: LimitedSpace | LimitedCompoundSpace,
    number: int,
    records: Sequence[TrialRecord],
) -> tuple[Choices, dict]:
    """(the network of trial `number`, the sampler's state to record).

    `records` are all earlier trials, with their networks; of those from :func:`known_trials` on,
    results are not used. The network is under the limits. It is that of an earlier trial only if
    hundreds of draws give no other one.
    """
    known = 0 if settings.sampler == "random" else known_trials(settings, number)
    earlier = {record.choices for record in records[:number]}
    state = {}
    offered = proposals(
        limited.space,
        settings.sampler,
        population=settings.population,
        seeds=(_seed(settings, number, attempt) for attempt in itertools.count()),
        history=records[:known],
        pending=records[known:number] if settings.sampler == "tpe" else (),
    )
    for choices, state in itertools.islice(offered, _PROPOSALS):
        if choices not in earlier and limited.allows(choices):
            return choices, state
    return limited.draw_new(f"{settings.sampler_seed}/{number}", earlier), state


def _seed(settings, number, attempt):
    text = f"{settings.sampler}/{settings.sampler_seed}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
