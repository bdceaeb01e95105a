import dataclasses
import itertools

import pytest

pytest.importorskip("optuna")

from keras_effnet.compound_space import CompoundSpace
from keras_effnet.search_space import SPACES, space_around
from tpu_train.recipes.table import find_recipe
from tpu_train.search.limits import LimitedSpace, limit_space
from tpu_train.search.sampling import draw
from tpu_train.search.settings import SearchSettings, known_trials
from tpu_train.search.trial_record import COMPLETE, TrialRecord

RECIPE = find_recipe("search")
SMALL = LimitedSpace(SPACES["small"], image_size=32, classes=10)


def _reward(stages):
    """Largest for 5 x 5 MBConv with expand ratio 4 in every stage."""
    return sum((s[0] == "mbconv") + (s[1] == 5) + (s[2] == 4) for s in stages) / 12


def _run(settings, trials, limited=SMALL):
    records = []
    for number in range(trials):
        stages, state = draw(settings, limited, number, records)
        record = TrialRecord(number, COMPLETE, _reward(stages), choices=stages, sampler_state=state)
        records.append(record)
    return records


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_draws_depend_on_seed_number_and_earlier_results_alone(sampler):
    settings = SearchSettings("small", RECIPE, sampler=sampler, population=5)
    records = _run(settings, 25)
    assert len({r.choices for r in records}) == 25
    # a restart, with trials in progress whose results are not known yet
    running = [dataclasses.replace(r, state="running", reward=None) for r in records]
    for number in (0, 7, 24):
        known = known_trials(settings, number)
        before = [*records[:known], *running[known:number]]
        assert draw(settings, SMALL, number, before)[0] == records[number].choices
    other = _run(dataclasses.replace(settings, sampler_seed=1), 3)
    assert [r.choices for r in other] != [r.choices for r in records[:3]]


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_guided_samplers_find_better_networks_than_random(sampler):
    settings = SearchSettings("small", RECIPE, sampler=sampler, population=8)
    chance = _run(dataclasses.replace(settings, sampler="random"), 60)
    guided = _run(settings, 60)
    assert sum(r.reward for r in guided[30:]) > 1.15 * sum(r.reward for r in chance[30:])


def test_a_network_is_repeated_only_when_the_space_is_exhausted(tiny):
    limited = LimitedSpace(space_around(tiny), image_size=32, classes=10, max_parameters=3300)
    points = itertools.product(*(stage.all() for stage in limited.space.choices))
    allowed = [stages for stages in points if limited.allows(stages)]
    assert len(allowed) < 40
    settings = SearchSettings("tiny", RECIPE)
    records = _run(settings, len(allowed) + 2, limited)
    assert {r.choices for r in records[: len(allowed)]} == set(allowed)
    assert {r.choices for r in records} == set(allowed)


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_as_many_trials_as_compound_points_try_each_once(sampler, tiny):
    space = CompoundSpace("compound:tiny", tiny)
    limited = limit_space(space, image_size=32, classes=10)
    settings = SearchSettings(space.name, RECIPE, sampler=sampler, population=4)
    records = []
    for number in range(limited.count()):
        choices, state = draw(settings, limited, number, records)
        reward = choices[0] - choices[1]
        records.append(TrialRecord(number, COMPLETE, reward, choices=choices, sampler_state=state))
    assert {r.choices for r in records} == set(space.points())


def test_parallel_trials_are_not_waited_for():
    guided = SearchSettings("small", RECIPE, sampler="tpe", parallel_trials=3)
    assert [known_trials(guided, n) for n in range(5)] == [0, 0, 0, 1, 2]
    assert known_trials(SearchSettings("small", RECIPE), 100) == 0
