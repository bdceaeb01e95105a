import doctest
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from keras_effnet.evaluation.probabilities import log_probabilities
from tflite.evaluation import paired_statistics


def _right(n10, n01, n):
    """Two arrays with the given numbers of discordant images."""
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[:n10] = second[n10 : n10 + n01] = True
    first[n10 + n01 :: 2] = second[n10 + n01 :: 2] = True
    return first, second


def _likeliest(n10, n01, n, delta):
    """p01 that makes the counts likeliest among those with p10 - p01 = delta, numerically."""

    def minus_log(p01):
        return -(special.xlogy(n10, p01 + delta) + special.xlogy(n01, p01)) - special.xlogy(
            n - n10 - n01, 1 - 2 * p01 - delta
        )

    bounds = (max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12)
    return optimize.minimize_scalar(
        minus_log, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x


@pytest.mark.parametrize(("n10", "n01", "n"), [(10, 1, 1000), (45, 30, 10_000), (1, 9, 20)])
def test_the_score_test_is_five_percent_at_the_interval_ends(n10, n01, n):
    drop = paired_statistics.drop(*_right(n10, n01, n))
    low, high = drop.confidence_interval
    assert low < drop.points < high
    for end in (low / 100, high / 100):
        p01 = _likeliest(n10, n01, n, end)
        variance = (2 * p01 + end - end**2) / n
        z = ((n10 - n01) / n - end) / math.sqrt(variance)
        assert 2 * stats.norm.sf(abs(z)) == pytest.approx(0.05, abs=1e-4)


def test_the_interval_approaches_walds_for_many_images():
    n10, n01, n = 600, 500, 100_000
    drop = paired_statistics.drop(*_right(n10, n01, n))
    half = 1.96 * math.sqrt(n10 + n01 - (n10 - n01) ** 2 / n) / n
    assert drop.points == pytest.approx(0.1)
    want = [100 * ((n10 - n01) / n + sign * half) for sign in (-1, 1)]
    assert drop.confidence_interval == pytest.approx(want, abs=1e-3)


def test_the_interval_covers_the_truth_in_95_percent_of_samples():
    p10, p01, n = 0.03, 0.02, 1000
    drawn = np.random.default_rng(0).multinomial(n, [p10, p01, 1 - p10 - p01], 2000)
    ends = np.array([paired_statistics._tango(a, b, n) for a, b, _ in drawn.tolist()])
    covered = ((ends[:, 0] <= p10 - p01) & (p10 - p01 <= ends[:, 1])).mean()
    assert 0.935 < covered < 0.965


def test_the_interval_has_a_width_without_discordant_images():
    drop = paired_statistics.drop([True] * 1000, [True] * 1000)
    assert (drop.points, drop.n10, drop.n01, drop.p_value) == (0, 0, 0, 1)
    low, high = drop.confidence_interval
    assert high == pytest.approx(-low)
    assert 0.3 < high < 0.5  # not zero: a thousand images prove nothing


def test_swapping_the_models_mirrors_the_drop():
    one, other = (
        paired_statistics.drop(*_right(9, 2, 50)),
        paired_statistics.drop(*_right(2, 9, 50)),
    )
    assert one.points == -other.points == 14
    assert one.confidence_interval[0] == pytest.approx(-other.confidence_interval[1])
    assert one.p_value == other.p_value


@pytest.mark.parametrize(("n10", "n01"), [(0, 0), (3, 3), (6, 0), (17, 14), (400, 100)])
def test_mcnemar_equals_the_binomial_test(n10, n01):
    want = stats.binomtest(n10, n10 + n01).pvalue if n10 + n01 else 1
    assert paired_statistics.mcnemar(n10, n01) == pytest.approx(want, rel=1e-9)


def test_divergence_of_softmax_outputs_is_relative_entropy():
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), (2, 4))
    got = paired_statistics.divergences(
        log_probabilities(p, "softmax"),
        log_probabilities(q, "softmax"),
        "softmax",
    )
    np.testing.assert_allclose(got, stats.entropy(p, q, axis=-1))


def test_divergence_of_sigmoid_outputs_sums_the_classes():
    p, q = np.random.default_rng(0).uniform(0.01, 0.99, (2, 4, 3))
    got = paired_statistics.divergences(np.log(p), np.log(q), "sigmoid")
    want = [sum(stats.entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(x, y)) for x, y in zip(p, q)]
    np.testing.assert_allclose(got, want)


def test_a_quantized_zero_counts_as_half_the_output_scale():
    p, q = np.array([[0.999, 0.001]]), np.array([[1.0, 0.0]])
    floor = log_probabilities(q, "softmax", output_scale=1 / 256)[0, 1]
    assert math.exp(floor) == pytest.approx(1 / 513, rel=1e-3)
    divergences = paired_statistics.divergences(
        log_probabilities(p, "softmax"), np.log(q + 1e-300), "softmax"
    )
    assert divergences[0] > 0.6  # a zero probability without the floor


def test_examples_in_docstrings_run():
    result = doctest.testmod(paired_statistics)
    assert result.attempted
    assert not result.failed
