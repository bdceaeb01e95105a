"""95 % confidence intervals of proportions and means."""

from __future__ import annotations

import math

import numpy as np

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(hits: int, count: int) -> tuple[float, float]:
    """(low, high) of the 95 % Wilson score interval of the proportion `hits` / `count`.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, z2 = hits / count, Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """(low, high) of the 95 % interval of a mean by the normal approximation; NaN for one value.

    >>> [round(end, 3) for end in mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))]
    [1.235, 3.765]
    """
    if len(values) < 2:
        return math.nan, math.nan
    mean = float(np.mean(values))
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half
