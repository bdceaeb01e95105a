"""Statistics of two classifiers on the same images: accuracy drop with confidence interval, McNemar
test, KL divergence, and whether one is closer to a reference than the other.

Only discordant images, which exactly one model classifies correctly, carry information about a
difference of accuracy. The functions are pure and use NumPy alone.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.intervals import Z

LEVEL = 0.02  # probability that a change without effect passes for an improvement


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


@dataclass(frozen=True)
class Improvement:
    """How much closer to a reference a candidate is than the current model, image by image."""

    gain: float  # decrease of the mean root error, as a share of the current one; below 0: worse
    standard_error: float  # of the gain
    gained: int = 0  # images with the reference's top-1 in the candidate only
    lost: int = 0  # images with the reference's top-1 in the current model only

    def is_significant(self, *, least: float = 0.0, trials: int = 1) -> bool:
        """Whether the gain is larger than `least` and than its own uncertainty, and top-1 agreement
        does not fall by more than one standard error.

        A change without effect passes with a probability of 2 % (``LEVEL``), however many `trials`
        the candidate is the best of.

        >>> Improvement(0.10, 0.02, gained=3, lost=1).is_significant()
        True
        >>> Improvement(0.03, 0.02, gained=3, lost=1).is_significant()  # within the noise
        False
        >>> Improvement(0.10, 0.02, gained=0, lost=2).is_significant()  # agreement falls
        False
        """
        threshold = max(least, quantile(trials) * self.standard_error)
        return self.gain > threshold and self.lost - self.gained <= math.sqrt(
            self.lost + self.gained
        )


def improvement(
    before, after, same_before=None, same_after=None, *, roots: bool = True
) -> Improvement:
    """The :class:`Improvement` from the errors of two models on the same images.

    The roots of the errors are compared: a divergence is the square of a distance, so that a few
    images far from the reference would otherwise hide all others. Top-1 changes where that distance
    is larger than an image's margin, and so in proportion to it.

    >>> improvement([4.0, 1.0, 1.0], [1.0, 1.0, 1.0]).gain
    0.25

    Args:
        before: (images,) errors of the current model, at least 0; infinity if it does not run.
        after: (images,) errors of the candidate.
        same_before: (images,) bool, whether the current model has the reference's top-1; None where
            top-1 has no meaning.
        same_after: the same of the candidate.
        roots: whether the errors are squares of distances. If not, they may be negative.
    """
    if roots:
        before, after = (np.sqrt(np.maximum(each, 0.0)) for each in (before, after))
    if not np.isfinite(after).all():
        return Improvement(-math.inf, 0.0)
    if not np.isfinite(before).all():
        return Improvement(1.0, 0.0)
    scale = max(float(np.abs(before).mean()), 1e-12)
    difference = (before - after) / scale
    gained = lost = 0
    if same_before is not None:
        same_before, same_after = np.asarray(same_before, bool), np.asarray(same_after, bool)
        gained, lost = (
            int((same_after & ~same_before).sum()),
            int((same_before & ~same_after).sum()),
        )
    return Improvement(float(difference.mean()), _standard_error(difference), gained, lost)


def detectable_gain(errors) -> float:
    """The smallest gain, as in :class:`Improvement`, that images with these errors could prove if
    it changed the rounding of every image.
    """
    roots = np.sqrt(np.maximum(errors, 0.0))
    return quantile() * _standard_error(roots) / max(float(roots.mean()), 1e-12)


def quantile(trials: int = 1) -> float:
    """Standard errors that the best of `trials` changes without effect exceeds with 2 %."""
    return statistics.NormalDist().inv_cdf(1 - LEVEL / trials)


def expected_agreement(log_reference, kl_divergences, *, unseen: bool = False) -> float:
    """The share of images that are expected to keep their top-1, from all images' divergences.

    Rounding moves every logit at random, by a standard deviation s. Then KL is about s^2 / 2 (1 -
    sum of p^2), which gives s, and the top-1 of an image changes if its margin is smaller than the
    difference of two such errors. Counting the changes in a few hundred images is far less precise.

    Args:
        log_reference: log probabilities (images, classes) of the reference, which sum to 1.
        kl_divergences: (images,) in nats.
        unseen: for images that the reference was not trained on. Training drives the margins of its
            own images away from 0. Those of other images are taken as uniform from 0 to the median
            of the given ones.

    >>> import numpy as np
    >>> certain = np.log(np.full((100, 3), [0.9, 0.05, 0.05]))  # no margin is close to 0
    >>> divergences = np.full(100, 0.001)
    >>> f"{expected_agreement(certain, divergences):.4f}"
    '1.0000'
    >>> f"{expected_agreement(certain, divergences, unseen=True):.4f}"
    '0.9797'
    """
    spread = float((1 - (np.exp(log_reference) ** 2).sum(-1)).sum())
    deviation = math.sqrt(2 * max(float(np.sum(kl_divergences)), 0.0) / max(spread, 1e-12))
    ordered = np.sort(log_reference, -1)
    margins = ordered[:, -1] - ordered[:, -2]
    if unseen:
        count = len(margins)
        margins = np.median(margins) * (np.arange(count) + 0.5) / count
    scale = max(math.sqrt(2) * deviation, 1e-12)
    changed = [statistics.NormalDist().cdf(-float(margin) / scale) for margin in margins]
    return 1.0 - float(np.mean(changed))


def _standard_error(values):
    count = len(values)
    return float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf


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
