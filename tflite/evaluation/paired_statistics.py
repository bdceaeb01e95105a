"""Statistics of two classifiers on the same images: accuracy drop with confidence interval, McNemar
test, KL divergence.

Only discordant images, which exactly one model classifies correctly, carry information about a
difference of accuracy. The functions are pure and use NumPy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.intervals import Z


@dataclass(frozen=True)
class Drop:
    """Accuracy drop from the reference to the candidate, with its significance."""

    points: float  # percentage points; negative: the candidate is better
    confidence_interval: tuple[float, float]  # 95 % of points, Tango's for paired proportions
    n10: int  # images with the reference right and the candidate wrong
    n01: int  # images with the reference wrong and the candidate right
    p_value: float  # exact two-sided McNemar test of equal accuracy


def drop(reference_correct, candidate_correct) -> Drop:
    """The accuracy :class:`Drop`, from two boolean arrays (images,) of correct predictions.

    The confidence interval is Tango's score interval (Statistics in Medicine 17, 1998). It does not
    need large counts, contains the estimate, and has a width even without discordant images.

    >>> drop([True, True, False, True], [True, False, False, True]).points
    25.0
    """
    reference, candidate = (np.asarray(c, bool) for c in (reference_correct, candidate_correct))
    n10 = int(np.sum(reference & ~candidate))
    n01 = int(np.sum(~reference & candidate))
    low, high = _tango(n10, n01, len(reference))
    return Drop(
        points=100 * (n10 - n01) / len(reference),
        confidence_interval=(100 * low, 100 * high),
        n10=n10,
        n01=n01,
        p_value=mcnemar(n10, n01),
    )


def mcnemar(n10: int, n01: int) -> float:
    """The exact two-sided p-value of McNemar's test: the probability that `n10` + `n01` tosses of a
    fair coin split at least as unevenly.

    >>> mcnemar(6, 0)
    0.03125
    """
    n = n10 + n01
    tail = sum(math.comb(n, k) for k in range(min(n10, n01) + 1))
    return min(1.0, 2 * tail / 2**n)


def divergences(reference, candidate, output_activation: str) -> np.ndarray:
    """KL(reference || candidate) of every image, (n,) in nats, from log probabilities (n, classes).
    For "sigmoid" it is the sum over the classes, each a binary distribution.
    """
    p = np.exp(reference)
    terms = p * (reference - candidate)
    if output_activation == "sigmoid":
        terms = terms + (1 - p) * (np.log1p(-p) - np.log1p(-np.exp(candidate)))
    return terms.sum(-1)


def _tango(n10, n01, n):
    """(low, high) of the difference of two paired proportions, in [-1, 1]."""

    def score(delta):
        """(estimate - delta) / standard error, the nuisance parameter at its maximum likelihood."""
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

    return edge(-1.0, Z), edge(1.0, Z)
