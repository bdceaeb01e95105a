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


# Whether one model is closer to a reference than another ---------------------------------------


def _errors(rng, count, scale=1.0):
    """Squared distances of images whose difficulty differs by orders of magnitude, and the margins
    that decide whether top-1 stays the same.
    """
    difficulty = np.exp(rng.normal(0, 1.5, count))
    margins = np.exp(rng.normal(2, 1, count))
    return difficulty, margins, lambda: (difficulty * scale * rng.normal(0, 1, count)) ** 2


def _share_accepted(factor, count, runs=400):
    """How often a candidate passes whose errors are `factor` times those of the current model."""
    accepted = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        _, margins, draw = _errors(rng, count)
        before, after = draw(), draw() * factor
        same = [np.sqrt(errors) < margins for errors in (before, after)]
        accepted += paired_statistics.improvement(before, after, *same).is_significant()
    return accepted / runs


@pytest.mark.parametrize("count", [48, 128, 256])
def test_change_without_effect_is_rejected_97_times_of_100(count):
    assert _share_accepted(1.0, count) <= 0.03


def test_real_gain_is_accepted():
    assert _share_accepted(0.25, 256) > 0.9
    assert _share_accepted(0.97, 128) < 0.05  # 3 % less divergence is within the noise


def test_best_of_several_changes_without_effect_is_rejected_as_often():
    accepted = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        _, _, draw = _errors(rng, 128)
        before = draw()
        trials = [paired_statistics.improvement(before, draw()) for _ in range(3)]
        accepted += any(each.is_significant(trials=3) for each in trials)
    assert accepted / 300 <= 0.03


@pytest.mark.parametrize(
    ("gained", "lost", "accepted"),
    [(0, 0, True), (0, 1, True), (0, 2, False), (2, 4, True), (1, 4, False), (5, 1, True)],
)
def test_agreement_may_not_fall_by_more_than_its_own_noise(gained, lost, accepted):
    assert paired_statistics.Improvement(0.2, 0.01, gained, lost).is_significant() is accepted


def test_model_that_does_not_run_is_worse_than_any_other():
    runs, broken = np.ones(4), np.full(4, np.inf)
    assert paired_statistics.improvement(broken, runs).is_significant()
    assert not paired_statistics.improvement(runs, broken).is_significant()
    assert not paired_statistics.improvement(broken, broken).is_significant()


def test_gain_can_be_required_beside_its_uncertainty():
    gain = paired_statistics.Improvement(0.04, 0.001)
    assert gain.is_significant(least=0.03)
    assert not gain.is_significant(least=0.05)


def test_images_that_count_equally_lower_the_detectable_gain():
    rng = np.random.default_rng(0)
    even, uneven = rng.uniform(0.9, 1.1, 100), np.exp(rng.normal(0, 3, 100))
    assert (
        paired_statistics.detectable_gain(even) < 0.02 < paired_statistics.detectable_gain(uneven)
    )
    more = paired_statistics.detectable_gain(np.tile(uneven, 100))
    assert more == pytest.approx(paired_statistics.detectable_gain(uneven) / 10, rel=0.01)


@pytest.mark.parametrize("deviation", [0.05, 0.2])
def test_expected_agreement_is_that_of_random_logit_errors(deviation):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 10))
    noisy = logits + rng.normal(0, deviation, logits.shape)
    p, q = (log_probabilities(each, "logits") for each in (logits, noisy))
    kl = paired_statistics.divergences(p, q, "logits")
    counted = (logits.argmax(-1) == noisy.argmax(-1)).mean()
    expected = paired_statistics.expected_agreement(p[:1000], kl[:1000])
    assert expected == pytest.approx(counted, abs=0.15 * (1 - counted) + 0.002)


def test_expected_agreement_of_unseen_images_counts_small_margins():
    """The reference was trained on images that all have large margins; others have any margin."""
    rng = np.random.default_rng(0)
    margins = {"trained": np.full(5_000, 4.0), "other": rng.uniform(0, 4, 5_000)}
    logs, divergences, counted = {}, {}, {}
    for name, margin in margins.items():
        logits = np.stack([margin, np.zeros(5_000), np.full(5_000, -9.0)], -1)
        noisy = logits + rng.normal(0, 0.2, logits.shape)
        logs[name], changed = (log_probabilities(each, "logits") for each in (logits, noisy))
        divergences[name] = paired_statistics.divergences(logs[name], changed, "logits")
        counted[name] = (logits.argmax(-1) == noisy.argmax(-1)).mean()
    expected = paired_statistics.expected_agreement
    assert expected(logs["trained"], divergences["trained"]) == pytest.approx(counted["trained"])
    assert expected(logs["trained"], divergences["trained"], unseen=True) == pytest.approx(
        counted["other"], abs=0.01
    )
