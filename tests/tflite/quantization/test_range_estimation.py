import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization import range_estimation
from tflite.quantization.calibration import _Accumulator, collect_histograms


def _histograms(*images):
    counter = _Accumulator()
    for image in images:
        counter.add(np.asarray(image, np.float32).reshape(-1, 1))
    return counter.result()


def _normal(count=20000, sd=1.0, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, sd, count)


def _rounded(values, low, high):
    """As a tensor of 256 codes has them."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step


def _error(values, low, high, function=lambda x: x):
    return np.mean((function(_rounded(values, low, high)) - function(values)) ** 2)


def _best(values, function=lambda x: x):
    """By trying every pair of ends."""
    shares = np.linspace(0.02, 1, 50)
    pairs = [(values.min() * a, values.max() * b) for a in shares for b in shares]
    return min(_error(values, *pair, function) for pair in pairs)


@pytest.fixture(scope="module")
def two_tensors():
    """choose(seen, rule) -> the bounds of a tensor before a swish, and of one that is not."""

    def choose(content, seen, rule):
        network = Graph(content)
        before = network.name(swishes(network)[0].z)
        other = network.name(next(op for op in network.operations if op.name == "ADD").output)
        found = estimate_ranges(content, {before: seen, other: seen}, rule)
        return tuple((found[n]["min"], found[n]["max"]) for n in (before, other))

    return choose


def test_every_tensor_gets_a_range_by_every_rule(trained, photos):
    seen = collect_histograms(trained, photos[:16])
    for rule in ESTIMATORS:
        found = estimate_ranges(trained, seen, rule)
        assert found.keys() == seen.keys()
        for name, bounds in found.items():
            assert bounds["min"] <= bounds["max"]
            if name != "serving_default_images:0":
                slack = seen[name].width
                assert seen[name].low - slack <= bounds["min"] or seen[name].low > 0
                assert bounds["max"] <= seen[name].high + slack or seen[name].high < 0
        assert found["serving_default_images:0"] == {"min": 0.0, "max": 255.0}


def test_minmax_is_what_calibrate_gives(trained, photos):
    seen = collect_histograms(trained, photos[:16])
    assert estimate_ranges(trained, seen, "minmax") == tflite.calibrate(
        trained, photos[:16]
    )
    mse = estimate_ranges(trained, seen, "mse")
    assert (
        tflite.calibrate(trained, photos[:16], estimator="mse")
        == mse
        != estimate_ranges(trained, seen, "minmax")
    )


def test_an_unknown_rule_is_an_error(trained):
    with pytest.raises(ValueError, match=r"Unknown rule 'msee'. Did you mean 'mse'"):
        estimate_ranges(trained, {}, "msee")


def test_percentile_leaves_one_value_in_ten_thousand_on_each_side(float_content, two_tensors):
    values = _normal(200_000)
    seen = _histograms(*values.reshape(20, -1))
    (low, high), other = two_tensors(float_content, seen, "percentile")
    assert other == (low, high)
    want = np.quantile(values, [1e-4, 1 - 1e-4])
    np.testing.assert_allclose([low, high], want, atol=0.05)
    assert (values < low).sum() <= 20
    assert (values > high).sum() <= 20


def test_percentile_never_goes_beyond_what_was_seen(float_content, two_tensors):
    (low, high), _ = two_tensors(float_content, _histograms([0.3, 0.5, 0.7]), "percentile")
    assert (low, high) == (pytest.approx(0.3), pytest.approx(0.7))


@pytest.mark.parametrize(
    "values",
    [_normal(), _normal(mean=3), np.exp(_normal()), -np.abs(_normal()), _normal() ** 3],
    ids=["normal", "shifted", "long tail", "negative", "heavy tails"],
)
def test_mse_is_nearly_the_least_error_of_any_range(values, float_content, two_tensors):
    _, (low, high) = two_tensors(float_content, _histograms(values), "mse")
    assert _error(values, low, high) < 1.1 * _best(values)


def _swish(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "values",
    [_normal(sd=3), _normal(sd=8, mean=-6), 30 * _normal(), -6 + 2 * _normal()],
    ids=["normal", "mostly negative", "wide", "far below 0"],
)
def test_swish_is_nearly_the_least_error_behind_it(values, float_content, two_tensors):
    (low, high), _ = two_tensors(float_content, _histograms(values), "swish")
    assert _error(values, low, high, _swish) < 1.25 * _best(values, _swish)


def test_swish_clips_the_negative_tail_that_min_max_keeps(float_content, two_tensors):
    values = np.concatenate([_normal(sd=2), np.linspace(-60, 0, 500)])
    seen = _histograms(values)
    (low, high), (other_low, _) = two_tensors(float_content, seen, "swish")
    assert seen.low == -60
    assert -15 < low < -1
    assert high > 5
    assert other_low < low  # of a tensor that no swish follows the values themselves count
    errors = [_error(values, *ends, _swish) for ends in ((low, high), (seen.low, seen.high))]
    assert errors[0] < errors[1] / 10


@pytest.mark.parametrize("rule", ["mse", "swish"])
def test_one_outlying_image_does_not_decide(rule, float_content, two_tensors):
    """As it would by min-max, and by a mean of squares over all images."""
    usual = [_normal(2000, seed=seed) for seed in range(63)]
    outlier = 100 * _normal(2000, seed=99)
    seen = _histograms(*usual, outlier)
    assert _best(np.concatenate([*usual, outlier])) > 0.01  # with one vote a value, not an image
    for low, high in two_tensors(float_content, seen, rule):
        assert seen.low / 5 < low < -1
        assert 3 < high < seen.high / 5
        assert _error(usual[0], low, high) < _error(usual[0], seen.low, seen.high) / 20


def test_a_tensor_of_one_value_keeps_it(float_content, two_tensors):
    for rule in ESTIMATORS:
        for value in (0.0, 2.5, -1.0):
            for bounds in two_tensors(float_content, _histograms([value] * 8), rule):
                assert bounds == (value, value)


def test_ranges_that_begin_above_zero_quantize(trained, photos):
    """256 codes always hold a zero: what is seen may not."""
    found = tflite.calibrate(trained, photos[:16])
    plan = tflite.make_plan(tflite.read_ops(trained), "int8", calibration_images=16)
    name = next(op.output for op in plan.ops if op.name == "ADD")
    found[name] = {"min": 1.0, "max": 9.0}
    made = litert.interpreter(tflite.quantize(trained, found, plan))
    details = next(d for d in made.get_tensor_details() if d["name"] == name)
    scale, zero = details["quantization"]
    assert (-128 - zero) * scale == 0
    assert (127 - zero) * scale == pytest.approx(9, rel=1e-3)


def test_a_term_that_is_next_to_nothing_gets_a_range_that_its_sum_can_take():
    found = {
        "small": {"min": -1e-4, "max": 2e-4},
        "large": {"min": -3.0, "max": 4.0},
        "sum": {"min": -3.0, "max": 4.0},
    }
    range_estimation._widen(found, ["small", "large"], "sum")
    assert found["small"]["max"] == pytest.approx(4 / 512)
    assert found["small"]["min"] == pytest.approx(-2 / 512)
    assert found["large"] == {"min": -3.0, "max": 4.0}
