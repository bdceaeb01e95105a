"""Which range of values the 256 codes of a tensor span: from all that was seen (min-max) to where
the error behind the swish is least.

What lies outside of a range is clipped, what lies inside is rounded to a step of range / 255; a
rule weighs one against the other. A network with swish has a tensor in front of every swish whose
negative tail hardly matters: swish(x) > -0.015 for x < -6, and min-max spends half of its codes
there.
"""

import numpy as np

from keras_effnet.suggestions import unknown_name
from tflite.flatbuffer.graph import Graph, swishes

RULES = {
    "minmax": "smallest and largest value over all images",
    "percentile": "all but one value in 10,000 on each side",
    "mse": "least squared error of the tensor",
    "swish": "least squared error of the tensor, or of the swish behind it",
}
_TAIL = 1e-4
_LEAST_TERM = 2**-9  # of the sum's range; XNNPACK's ADD runs scales down to 2^-10 of the sum's
_CUTS = 48  # candidates for each end of a range


def choose(float32_model, observed, rule):
    """{tensor: {"min", "max"}} by one of ``RULES``, of what ``calibration.collect_histograms`` saw.

    The input keeps (0, 255), so that its scale means pixels.
    """
    if rule not in RULES:
        raise ValueError(unknown_name("rule", rule, RULES))
    network = Graph(float32_model)
    before_swish = {network.name(swish.z) for swish in swishes(network)}
    found = {}
    for name, seen in observed.items():
        if rule == "minmax" or seen.high <= seen.low:
            low, high = seen.low, seen.high
        elif rule == "percentile":
            low, high = _percentiles(seen)
        else:
            through_swish = rule == "swish" and name in before_swish
            low, high = _least_error(seen, _swish if through_swish else None)
        found[name] = {"min": low, "max": high}
    found[network.name(network.input)] = {"min": 0.0, "max": 255.0}
    for op in network.operations:
        if op.name == "ADD":
            _widen(found, [network.name(i) for i in op.inputs], network.name(op.output))
    return found


def _widen(found, terms, total):
    """Gives a term that is next to nothing beside its sum a range that XNNPACK's ADD takes."""
    reach = max(abs(end) for end in found.get(total, {"max": 0.0}).values())
    for name in terms:
        own = max(abs(end) for end in found[name].values()) if name in found else 0.0
        if 0 < own < _LEAST_TERM * reach:
            factor = _LEAST_TERM * reach / own
            found[name] = {end: value * factor for end, value in found[name].items()}


def _percentiles(seen):
    share = np.cumsum(seen.counts) / seen.counts.sum()
    edges = seen.centers + seen.width / 2
    low = edges[np.searchsorted(share, _TAIL)] - seen.width
    high = edges[np.searchsorted(share, 1 - _TAIL)]
    return max(seen.low, float(low)), min(seen.high, float(high))


def _least_error(seen, function):
    """(low, high) with the least mean squared error of function(quantized value).

    The error is clipping beyond each end, which hangs on that end alone, and rounding in between:
    step^2 / 12 times the function's slope squared, so that all pairs of ends are weighed at once.
    """
    inside = seen.weights > 0
    value, weight = seen.centers[inside], seen.weights[inside] / seen.weights.sum()
    if function is None:
        image, slope = value, np.ones_like(value)
    else:
        image = function(value)
        slope = (function(value + 1e-3) - function(value - 1e-3)) / 2e-3

    fractions = np.geomspace(1.0, 0.01, _CUTS)
    lows = seen.low * fractions if seen.low < 0 else np.zeros(1)
    highs = seen.high * fractions if seen.high > 0 else np.zeros(1)

    def clipped(ends, beyond):
        at = ends if function is None else function(ends)
        out = beyond(value[None], ends[:, None])
        return np.where(out, (image[None] - at[:, None]) ** 2, 0.0) @ weight

    low_error = clipped(lows, lambda v, end: v < end)
    high_error = clipped(highs, lambda v, end: v > end)
    # rounding: all that is inside, by prefix sums over the sorted values
    prefix = np.concatenate([[0.0], np.cumsum(weight * slope**2)])
    first = np.searchsorted(value, lows)
    last = np.searchsorted(value, highs, side="right")
    slopes = prefix[last][None] - prefix[first][:, None]
    step = (highs[None] - lows[:, None]) / 255
    total = low_error[:, None] + high_error[None] + step**2 / 12 * np.maximum(slopes, 0)
    i, j = np.unravel_index(np.argmin(total), total.shape)
    return float(lows[i]), float(highs[j])


def _swish(x):
    return x / (1 + np.exp(np.minimum(-x, 700)))  # exp overflows beyond
