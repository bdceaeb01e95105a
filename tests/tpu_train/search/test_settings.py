import dataclasses

import numpy as np
import pytest

from tpu_train.recipes.table import find_recipe
from tpu_train.search.settings import SearchSettings, check_same_study, check_settings

SETTINGS = SearchSettings("small", find_recipe("search"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "smal"}, "Did you mean 'small'"),
        ({"sampler": "nsga3"}, "Did you mean 'nsga2'"),
        ({"pruner": "hyperband"}, "none, halving"),
        ({"step_time": "measure"}, "Did you mean 'measured'"),
        ({"population": 1}, "population must be at least 2, got 1"),
        ({"parallel_trials": 0}, "parallel_trials must be at least 1"),
        ({"max_parameters": -1}, "max_parameters must be at least 0"),
        ({"pruner": "halving"}, "the recipe has one phase: give --phases=2"),
        ({"recipe": dataclasses.replace(SETTINGS.recipe, weights="auto")}, "leave --weights out"),
        ({"recipe": dataclasses.replace(SETTINGS.recipe, depth=2)}, "leave --depth out"),
        ({"recipe": dataclasses.replace(SETTINGS.recipe, epochs=0)}, "epochs must be greater"),
        (
            {"recipe": dataclasses.replace(SETTINGS.recipe, early_stopping_patience=2)},
            "--early_stopping_patience needs evaluations during a phase, and this command",
        ),
        (
            {"recipe": dataclasses.replace(SETTINGS.recipe, learning_rate_schedule="plateau")},
            "--learning_rate_schedule=plateau needs evaluations .*: leave it out",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(dataclasses.replace(SETTINGS, **changes))


def test_another_study_is_refused_with_every_difference():
    labels = np.arange(10) % 2
    recorded = SETTINGS.identity(("a", "b"), labels)
    check_same_study(recorded, SETTINGS.identity(("a", "b"), labels), "w")
    recipe = dataclasses.replace(SETTINGS.recipe, epochs=3, steps_per_loop=1)
    other = dataclasses.replace(
        SETTINGS, space="efficientnetv2-b0", step_time="measured", recipe=recipe
    )
    with pytest.raises(ValueError, match="w has another study") as error:
        check_same_study(recorded, other.identity(("a", "c"), labels), "w")
    for difference in (
        "space 'small', now 'efficientnetv2-b0'",
        "step_time 'flops', now 'measured'",
        "recipe.epochs 10, now 3",
        "data.classes ['a', 'b'], now ['a', 'c']",
    ):
        assert difference in str(error.value)
    assert "steps_per_loop" not in str(error.value)  # no result depends on it
