"""Range estimation: from a tensor's histogram to the range that its 256 quantized values span.

Values outside the range are clipped; values inside are rounded to multiples of range / 255. An
estimator trades one error against the other. EfficientNets have a tensor in front of every swish
whose negative tail has almost no effect, since swish(x) > -0.015 for x < -6: min-max spends half of
the quantized values there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from keras_effnet.suggestions import unknown_name
from tflite.flatbuffer.graph import Graph, swishes

_TAIL = 1e-4  # fraction of the values that the percentile estimator clips on each side
_MIN_TERM = 2**-9  # of the sum's range; XNNPACK's ADD accepts scales down to 2^-10 of the sum's
_CANDIDATES = 48  # for each end of a range


@dataclass(frozen=True)
class Estimator:
    """A way to estimate ranges: function (histogram, is before a swish) -> (low, high)."""

    function: Callable
    description: str


def minmax(histogram, before_swish: bool = False) -> tuple[float, float]:
    """(smallest, largest) value."""
    return histogram.low, histogram.high


def percentile(histogram, before_swish: bool = False) -> tuple[float, float]:
    """The range that all but one value in 10,000 on each side lie in."""
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = histogram.centers + histogram.width / 2
    low = edges[np.searchsorted(cumulative, _TAIL)] - histogram.width
    high = edges[np.searchsorted(cumulative, 1 - _TAIL)]
    return max(histogram.low, float(low)), min(histogram.high, float(high))


def mse(histogram, before_swish: bool = False) -> tuple[float, float]:
    """The range with the least mean squared error of the tensor."""
    return _least_error(histogram, None)


def mse_after_swish(histogram, before_swish: bool = False) -> tuple[float, float]:
    """The range with the least mean squared error of the tensor, or after the swish behind it."""
    return _least_error(histogram, _swish if before_swish else None)


ESTIMATORS = {
    "minmax": Estimator(minmax, "smallest and largest value over all images"),
    "percentile": Estimator(percentile, "all but one value in 10,000 on each side"),
    "mse": Estimator(mse, "least squared error of the tensor"),
    "swish": Estimator(
        mse_after_swish, "least squared error of the tensor, or after the swish behind it"
    ),
}


def estimate_ranges(float32_model: bytes, histograms: Mapping, estimator: str) -> dict:
    """{tensor: {"min", "max"}} by one of ``ESTIMATORS``.

    The input's range is always (0, 255), so that one step of its scale is one grey level.

    Args:
        float32_model: bytes of the float .tflite.
        histograms: as ``calibration.collect_histograms`` returns them.
        estimator: a name of ``ESTIMATORS``.

    Raises:
        ValueError: an unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(unknown_name("range estimator", estimator, ESTIMATORS))
    graph = Graph(float32_model)
    before_swish = {graph.name(swish.z) for swish in swishes(graph)}
    ranges = {}
    for name, histogram in histograms.items():
        constant = histogram.high <= histogram.low
        function = minmax if constant else ESTIMATORS[estimator].function
        low, high = function(histogram, name in before_swish)
        ranges[name] = {"min": low, "max": high}
    ranges[graph.name(graph.input)] = {"min": 0.0, "max": 255.0}
    for op in graph.operations:
        if op.name == "ADD":
            terms = [graph.name(i) for i in op.inputs]
            ranges = widen_small_terms(ranges, terms, graph.name(op.output))
    return ranges


def widen_small_terms(ranges: dict, terms: list[str], total: str) -> dict:
    """The ranges, with terms widened that are too small beside their sum for XNNPACK's ADD."""
    limit = _MIN_TERM * _absolute_maximum(ranges.get(total, {"max": 0.0}))
    widened = {}
    for name in terms:
        maximum = _absolute_maximum(ranges[name]) if name in ranges else 0.0
        if 0 < maximum < limit:
            factor = limit / maximum
            widened[name] = {end: value * factor for end, value in ranges[name].items()}
    return {**ranges, **widened}


def _absolute_maximum(bounds):
    return max(abs(end) for end in bounds.values())


def _least_error(histogram, function):
    """(low, high) with the least mean squared error of function(quantized value).

    The error is clipping beyond each end, which depends on that end only, plus rounding in between:
    scale^2 / 12 times the squared slope of the function. All pairs of ends are evaluated at once.
    """
    filled = histogram.weights > 0
    value, weight = histogram.centers[filled], histogram.weights[filled] / histogram.weights.sum()
    if function is None:
        image, slope = value, np.ones_like(value)
    else:
        image = function(value)
        slope = (function(value + 1e-3) - function(value - 1e-3)) / 2e-3

    fractions = np.geomspace(1.0, 0.01, _CANDIDATES)
    lows = histogram.low * fractions if histogram.low < 0 else np.zeros(1)
    highs = histogram.high * fractions if histogram.high > 0 else np.zeros(1)

    def clipping_error(ends, beyond):
        at_ends = ends if function is None else function(ends)
        clipped = beyond(value[None], ends[:, None])
        return np.where(clipped, (image[None] - at_ends[:, None]) ** 2, 0.0) @ weight

    low_error = clipping_error(lows, lambda v, end: v < end)
    high_error = clipping_error(highs, lambda v, end: v > end)
    # Rounding: the squared slopes of all values inside, from prefix sums over the sorted values.
    prefix = np.concatenate([[0.0], np.cumsum(weight * slope**2)])
    first = np.searchsorted(value, lows)
    last = np.searchsorted(value, highs, side="right")
    slopes = prefix[last][None] - prefix[first][:, None]
    scale = (highs[None] - lows[:, None]) / 255
    total = low_error[:, None] + high_error[None] + scale**2 / 12 * np.maximum(slopes, 0)
    i, j = np.unravel_index(np.argmin(total), total.shape)
    return float(lows[i]), float(highs[j])


def _swish(x):
    return x / (1 + np.exp(np.minimum(-x, 700)))  # exp overflows above 709
