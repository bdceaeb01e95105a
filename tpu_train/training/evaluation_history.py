"""What follows from the evaluations of a run so far: the best one, early stopping, plateaus.

The best evaluation is that of the highest accuracy, or, if early stopping or the plateau schedule
compares losses (``early_stopping_metric``), of the lowest loss. ``best.keras``, the checkpoint that
is kept and the model that early stopping exports are all those of this one evaluation.

All of it is a function of the recorded evaluations, which checkpoints contain, so a resumed run
decides as an uninterrupted one. An evaluation is a dict of the values of
:func:`~tpu_train.training.evaluation.make_evaluation` and its "step"; those of the EMA weights
count. `metric` is "accuracy" or "loss".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tpu_train.recipes.evaluation_settings import setting_by_evaluations
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe


def metric_of(recipe: Recipe) -> str:
    """What the best model of a run is best in: "loss" or "accuracy".

    The metric of early stopping and of the plateau schedule, if the run has one of them.
    """
    return recipe.early_stopping_metric if setting_by_evaluations(recipe) else "accuracy"


def is_finite(evaluation: Mapping) -> bool:
    """Whether the EMA weights give no NaN or Inf; otherwise their accuracy has no meaning.

    >>> is_finite({"step": 1, "ema": 0.5, "loss_ema": float("nan")})
    False
    """
    return math.isfinite(evaluation["ema"]) and math.isfinite(evaluation.get("loss_ema", 0.0))


def find_best(evaluations: Sequence[Mapping], metric: str) -> Mapping | None:
    """The best evaluation: the last one if it is as good as any, else the first of equal ones.

    >>> evaluations = [{"step": n, "ema": a} for n, a in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6))]
    >>> find_best(evaluations, "accuracy")["step"], find_best(evaluations[:3], "accuracy")["step"]
    (2, 3)
    """
    best = max(evaluations, key=lambda e: _score(e, metric), default=None)
    if best is None or _score(evaluations[-1], metric) == _score(best, metric):
        return evaluations[-1] if evaluations else None
    return best


def improves(evaluations: Sequence[Mapping], new: Mapping, metric: str) -> bool:
    """Whether a new evaluation is better than all others; never one with NaN or Inf."""
    if not is_finite(new):
        return False
    best = find_best(evaluations, metric)
    return best is None or _score(new, metric) > _score(best, metric)


def is_new_best(evaluations: Sequence[Mapping], step: int, metric: str) -> bool:
    """Whether the last evaluation was at `step`, and is better than all before.

    >>> evaluations = [{"step": n, "ema": a} for n, a in ((1, 0.5), (2, 0.7), (3, 0.7))]
    >>> is_new_best(evaluations[:2], 2, "accuracy"), is_new_best(evaluations, 3, "accuracy")
    (True, False)
    """
    *earlier, last = evaluations or [{"step": None}]
    return last["step"] == step and improves(earlier, last, metric)


def ends_early(evaluations: Sequence[Mapping], recipe: Recipe, phase: Phase) -> bool:
    """Whether early stopping ends a phase: its last evaluations have not improved on its best."""
    patience = recipe.early_stopping_patience
    if not patience:
        return False
    of_phase = [e for e in evaluations if e["step"] > phase.first_step]
    waited = 0
    for i, evaluation in enumerate(of_phase):
        improved = improves(of_phase[:i], evaluation, recipe.early_stopping_metric)
        waited = 0 if improved else waited + 1
    return waited >= patience


def count_plateaus(evaluations: Sequence[Mapping], metric: str, patience: int) -> int:
    """How often `patience` evaluations in a row have not improved on the best before them.

    >>> evaluations = [{"ema": 0.5, "loss_ema": loss} for loss in (3, 2, 2, 2, 1, 1, 1, 1)]
    >>> count_plateaus(evaluations, "loss", 2)
    2
    """
    plateaus = waited = 0
    for i, evaluation in enumerate(evaluations):
        waited = 0 if improves(evaluations[:i], evaluation, metric) else waited + 1
        if waited == patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def _score(evaluation, metric):
    if not is_finite(evaluation):
        return -math.inf
    return evaluation["ema"] if metric == "accuracy" else -evaluation["loss_ema"]
