import dataclasses

import pytest

from tpu_train.recipes.phases import make_phases
from tpu_train.recipes.table import RECIPES
from tpu_train.training.evaluation_history import (
    count_plateaus,
    ends_early,
    find_best,
    improves,
    metric_of,
)

RECIPE = dataclasses.replace(RECIPES["digits"], phases=1, early_stopping_patience=2)


def evaluations(*losses, first=1):
    return [
        {"step": first + i, "loss_ema": loss, "ema": 1 - loss / 10} for i, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("losses", "best", "plateaus", "early"),
    [
        ((), None, 0, False),
        ((5,), 1, 0, False),
        ((5, 4, 3), 3, 0, False),
        ((5, 6), 1, 0, False),
        ((5, 6, 5.5), 1, 1, True),
        ((5, 5, 5), 3, 1, True),  # as good is not better
        ((5, 6, 4, 4.5), 3, 0, False),
        ((5, 6, 6, 4), 4, 1, False),
        ((5, 6, 6, 6, 6), 1, 2, True),
        ((5, float("nan")), 1, 0, False),
        ((float("nan"), 5), 2, 0, False),
        ((float("nan"), 5, float("inf")), 2, 0, False),
        ((float("nan"),), 1, 0, False),
    ],
)
def test_the_evaluations_decide(losses, best, plateaus, early):
    for metric in ("loss", "accuracy"):
        recipe = dataclasses.replace(RECIPE, early_stopping_metric=metric)
        phase = make_phases(recipe, 640)[0]
        found = find_best(evaluations(*losses), metric)
        assert (found and found["step"]) == best
        assert count_plateaus(evaluations(*losses), metric, 2) == plateaus
        assert ends_early(evaluations(*losses), recipe, phase) == early


def test_early_stopping_counts_the_evaluations_of_its_phase():
    phase = dataclasses.replace(make_phases(RECIPE, 640)[0], first_step=3)
    history = evaluations(1, 5, 5, 4, 3)
    assert not ends_early(history, RECIPE, phase)
    assert ends_early([*history, *evaluations(3, 3, first=6)], RECIPE, phase)
    assert not ends_early(history[:3], RECIPE, phase)
    off = dataclasses.replace(RECIPE, early_stopping_patience=0)
    assert not ends_early(evaluations(1, 2, 3, 4, 5), off, phase)


def test_the_best_model_is_best_in_early_stoppings_metric():
    assert metric_of(RECIPE) == "loss"
    off = dataclasses.replace(RECIPE, early_stopping_patience=0)
    assert metric_of(off) == "accuracy"
    assert metric_of(dataclasses.replace(off, learning_rate_schedule="plateau")) == "loss"
    new = {"step": 9, "ema": 0.9, "loss_ema": 2.0}
    old = [{"step": 1, "ema": 0.8, "loss_ema": 1.0}]
    assert improves(old, new, "accuracy")
    assert not improves(old, new, "loss")
