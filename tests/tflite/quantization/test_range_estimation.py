import numpy as np
import pytest

import tflite
from keras_effnet.litert import runtime
from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization.calibration import _Accumulator, collect_histograms
from tflite.quantization.range_estimation import (
    ESTIMATORS,
    estimate_ranges,
    widen_small_terms,
)


def _histogram(*images):
    counter = _Accumulator()
    for image in images:
        counter.add(np.asarray(image, np.float32).reshape(-1, 1))
        counter.count()
    return counter.result()


def _normal(count=20000, sd=1.0, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, sd, count)


def _rounded(values, low, high):
    """The values rounded to 256 levels."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale


def _error(values, low, high, function=lambda x: x):
    return np.mean((function(_rounded(values, low, high)) - function(values)) ** 2)


def _best(values, function=lambda x: x):
    """The least error, found by trying every pair of ends."""
    shares = np.linspace(0.02, 1, 50)
    pairs = [(values.min() * a, values.max() * b) for a in shares for b in shares]
    return min(_error(values, *pair, function) for pair in pairs)


@pytest.fixture(scope="module")
def two_tensors():
    """estimate(model, histogram, estimator) -> bounds before a swish, and of another tensor."""

    def estimate(content, histogram, estimator):
        graph = Graph(content)
        before = graph.name(swishes(graph)[0].z)
        other = graph.name(next(op for op in graph.operations if op.name == "ADD").output)
        found = estimate_ranges(content, {before: histogram, other: histogram}, estimator)
        return tuple((found[n]["min"], found[n]["max"]) for n in (before, other))

    return estimate


def test_every_estimator_gives_every_tensor_a_range(trained_v1, photos):
    histograms = collect_histograms(trained_v1, photos[:16])
    for estimator in ESTIMATORS:
        found = estimate_ranges(trained_v1, histograms, estimator)
        assert found.keys() == histograms.keys()
        for name, bounds in found.items():
            assert bounds["min"] <= bounds["max"]
            if name != "serving_default_images:0":
                slack = histograms[name].width
                assert histograms[name].low - slack <= bounds["min"] or histograms[name].low > 0
                assert bounds["max"] <= histograms[name].high + slack or histograms[name].high < 0
        assert found["serving_default_images:0"] == {"min": 0.0, "max": 255.0}


def test_calibrate_uses_minmax_by_default(trained_v1, photos):
    histograms = collect_histograms(trained_v1, photos[:16])
    assert estimate_ranges(trained_v1, histograms, "minmax") == tflite.calibrate(
        trained_v1, photos[:16]
    )
    mse = estimate_ranges(trained_v1, histograms, "mse")
    assert (
        tflite.calibrate(trained_v1, photos[:16], estimator="mse")
        == mse
        != estimate_ranges(trained_v1, histograms, "minmax")
    )


def test_unknown_estimator_is_an_error(trained_v1):
    with pytest.raises(ValueError, match=r"Unknown range estimator 'msee'. Did you mean 'mse'"):
        estimate_ranges(trained_v1, {}, "msee")


def test_percentile_clips_one_value_in_10000_on_each_side(float_content, two_tensors):
    values = _normal(200_000)
    histogram = _histogram(*values.reshape(20, -1))
    (low, high), other = two_tensors(float_content, histogram, "percentile")
    assert other == (low, high)
    want = np.quantile(values, [1e-4, 1 - 1e-4])
    np.testing.assert_allclose([low, high], want, atol=0.05)
    assert (values < low).sum() <= 20
    assert (values > high).sum() <= 20


def test_percentile_stays_within_the_extremes(float_content, two_tensors):
    (low, high), _ = two_tensors(float_content, _histogram([0.3, 0.5, 0.7]), "percentile")
    assert (low, high) == (pytest.approx(0.3), pytest.approx(0.7))


@pytest.mark.parametrize(
    "values",
    [_normal(), _normal(mean=3), np.exp(_normal()), -np.abs(_normal()), _normal() ** 3],
    ids=["normal", "shifted", "long tail", "negative", "heavy tails"],
)
def test_mse_is_close_to_the_least_error(values, float_content, two_tensors):
    _, (low, high) = two_tensors(float_content, _histogram(values), "mse")
    assert _error(values, low, high) < 1.1 * _best(values)


def _swish(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "values",
    [_normal(sd=3), _normal(sd=8, mean=-6), 30 * _normal(), -6 + 2 * _normal()],
    ids=["normal", "mostly negative", "wide", "far below 0"],
)
def test_swish_is_close_to_the_least_error_after_the_swish(values, float_content, two_tensors):
    (low, high), _ = two_tensors(float_content, _histogram(values), "swish")
    assert _error(values, low, high, _swish) < 1.25 * _best(values, _swish)


def test_swish_clips_the_negative_tail(float_content, two_tensors):
    values = np.concatenate([_normal(sd=2), np.linspace(-60, 0, 500)])
    histogram = _histogram(values)
    (low, high), (other_low, _) = two_tensors(float_content, histogram, "swish")
    assert histogram.low == -60
    assert -15 < low < -1
    assert high > 5
    assert other_low < low  # without a swish the values count, not the swish of them
    errors = [
        _error(values, *ends, _swish) for ends in ((low, high), (histogram.low, histogram.high))
    ]
    assert errors[0] < errors[1] / 10


@pytest.mark.parametrize("estimator", ["mse", "swish"])
def test_one_outlying_image_does_not_decide(estimator, float_content, two_tensors):
    """It would with min-max, or with a mean of squares over all images."""
    usual = [_normal(2000, seed=seed) for seed in range(63)]
    outlier = 100 * _normal(2000, seed=99)
    histogram = _histogram(*usual, outlier)
    assert _best(np.concatenate([*usual, outlier])) > 0.01  # if values count, not images
    for low, high in two_tensors(float_content, histogram, estimator):
        assert histogram.low / 5 < low < -1
        assert 3 < high < histogram.high / 5
        assert _error(usual[0], low, high) < _error(usual[0], histogram.low, histogram.high) / 20


def test_constant_tensor_keeps_its_value(float_content, two_tensors):
    for estimator in ESTIMATORS:
        for value in (0.0, 2.5, -1.0):
            for bounds in two_tensors(float_content, _histogram([value] * 8), estimator):
                assert bounds == (value, value)


def test_range_above_zero_is_extended_to_zero(trained_v1, photos):
    found = tflite.calibrate(trained_v1, photos[:16])
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8", calibration_images=16)
    name = next(op.output for op in plan.ops if op.name == "ADD")
    found[name] = {"min": 1.0, "max": 9.0}
    made = runtime.interpreter(tflite.quantize(trained_v1, found, plan))
    details = next(d for d in made.get_tensor_details() if d["name"] == name)
    scale, zero = details["quantization"]
    assert (-128 - zero) * scale == 0
    assert (127 - zero) * scale == pytest.approx(9, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 4e-3, 7e-3])
def test_small_terms_get_a_range_that_their_sum_accepts(scale):
    ranges = {
        "small": {"min": -scale, "max": 2 * scale},
        "large": {"min": -3.0, "max": 4.0},
        "sum": {"min": -3.0, "max": 4.0},
    }
    widened = widen_small_terms(ranges, ["small", "large"], "sum")
    maximum = max(2 * scale, 4 / 512)
    assert widened["small"]["max"] == pytest.approx(maximum)
    assert widened["small"]["min"] == pytest.approx(-maximum / 2)
    assert widened["large"] == {"min": -3.0, "max": 4.0}
    assert ranges["small"]["max"] == 2 * scale
