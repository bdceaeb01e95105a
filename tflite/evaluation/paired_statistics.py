"""Two classifiers on the same images: what a difference of their figures is worth. Pure: NumPy and
arithmetic.

Images that both get right, or both wrong, say nothing about a difference: it lives in the
discordant ones.
"""

import math
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # a normal variable is within +-_Z in 95 % of cases


@dataclass(frozen=True)
class Drop:
    """How much less of the images the second classifier gets right, and how sure that is."""

    points: float  # first minus second, in percentage points; negative: the second is better
    low: float  # 95 % confidence interval of points (Tango's score interval of paired proportions)
    high: float
    n10: int  # the first right, the second wrong
    n01: int  # the first wrong, the second right
    p_value: float  # exact McNemar test of "as likely right", two-sided


def drop(first_right, second_right):
    """The :class:`Drop` from two boolean arrays (images,): which images each gets right.

    The interval is Tango's (Statistics in Medicine 17, 1998): the differences that a score test
    does not refuse. It needs no large counts, contains the estimate, and has a width where no
    image is discordant.

    >>> drop([True, True, False, True], [True, False, False, True]).points
    25.0
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    n10 = int(np.sum(first & ~second))
    n01 = int(np.sum(~first & second))
    low, high = _tango(n10, n01, len(first))
    return Drop(
        points=100 * (n10 - n01) / len(first),
        low=100 * low,
        high=100 * high,
        n10=n10,
        n01=n01,
        p_value=mcnemar(n10, n01),
    )


def mcnemar(n10, n01):
    """The exact two-sided p-value of McNemar's test: how often a fair coin splits `n10` + `n01`
    throws at least as unevenly.

    >>> mcnemar(6, 0)
    0.03125
    """
    n = n10 + n01
    tail = sum(math.comb(n, k) for k in range(min(n10, n01) + 1))
    return min(1.0, 2 * tail / 2**n)


def wilson(hits, count):
    """(low, high) of the 95 % Wilson score interval of a share `hits` of `count`.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, z2 = hits / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def log_probabilities(scores, ending, *, step=0.0):
    """Natural logarithms of the probabilities that scores (n, classes) stand for.

    Args:
        scores: as the model gives them, as real numbers.
        ending: "logits": normalised here with a softmax; "softmax": brought to sum 1, which 8 bits
            only nearly do; "sigmoid": each class is a yes or no of its own, and kept.
        step: the distance of two scores of a quantized output. A probability is no smaller than
            half of it (or 1e-9): 8 bits write 0 for all that is smaller.
    """
    scores = np.asarray(scores, np.float64)
    if ending == "logits":
        shifted = scores - scores.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    floor = max(1e-9, step / 2)
    if ending == "sigmoid":
        return np.log(np.clip(scores, floor, 1 - floor))
    clipped = np.maximum(scores, floor)
    return np.log(clipped / clipped.sum(-1, keepdims=True))


def divergences(first, second, ending):
    """Kullback-Leibler divergence of every image, (n,) in nats, from the logarithms of both models'
    probabilities: what is lost on average by taking the second's for the first's. For "sigmoid"
    the sum over the classes' yes-or-no divergences.
    """
    p = np.exp(first)
    terms = p * (first - second)
    if ending == "sigmoid":
        terms = terms + (1 - p) * (np.log1p(-p) - np.log1p(-np.exp(second)))
    return terms.sum(-1)


def _tango(n10, n01, n):
    """(low, high) of the difference of two paired proportions, as shares."""

    def score(delta):
        """Estimate minus delta over its standard error, the nuisance at its likeliest."""
        b = -n10 - n01 + (2 * n - n10 + n01) * delta
        q = (math.sqrt(max(0.0, b * b + 8 * n * n01 * delta * (1 - delta))) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return (n10 - n01 - n * delta) / math.sqrt(variance) if variance > 0 else 0.0

    estimate = (n10 - n01) / n

    def edge(end, z):
        inside, outside = estimate, end
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(score(middle)) < z:
                inside = middle
            else:
                outside = middle
        return inside

    return edge(-1.0, _Z), edge(1.0, _Z)
