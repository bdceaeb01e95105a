"""Rewards of architecture search: the papers' formulas, and costs that are none."""

import pytest

from keras_effnet.search_reward import flops_reward, training_aware_reward


def test_the_reference_network_has_its_accuracy_as_reward():
    assert training_aware_reward(81.5, 1.0, 1.0) == 81.5


def test_reward_is_the_papers_product_of_powers():
    assert training_aware_reward(80, 1.7, 0.6) == pytest.approx(80 * 1.7**-0.07 * 0.6**-0.05)
    assert flops_reward(77, 390e6, 400e6) == pytest.approx(77 * (390 / 400) ** -0.07)


@pytest.mark.parametrize("cost", [0, -1, float("nan"), float("inf"), None, True])
def test_a_cost_that_is_no_positive_number_is_refused(cost):
    with pytest.raises(ValueError, match=r"step_time .* is not a number greater than 0"):
        training_aware_reward(0.8, cost, 1.0)
    with pytest.raises(ValueError, match="flops"):
        flops_reward(0.8, cost, 1.0)


def test_an_accuracy_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="accuracy nan"):
        training_aware_reward(float("nan"), 1.0, 1.0)
