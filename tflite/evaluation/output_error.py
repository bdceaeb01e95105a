"""Errors of outputs that are not the scores of classes: regression, embeddings, maps, several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SMALLEST = 1e-12  # variance below which an output is constant


@dataclass(frozen=True)
class OutputError:
    """How far one output of the candidate is from that of the reference, over all images."""

    name: str
    shape: tuple[int, ...]  # of one image
    mean_absolute_error: float
    standard_deviation: float  # of the reference's values, for comparison with the error
    correlation: float | None  # Pearson; None for a constant output
    sqnr_db: float | None  # power of the reference over power of the error; None if equal


def output_errors(
    outputs: Sequence[tuple[str, tuple[int, ...], slice]],
    reference: np.ndarray,
    candidate: np.ndarray,
) -> tuple[OutputError, ...]:
    """The :class:`OutputError` of each output, from values (n, all outputs).

    Args:
        outputs: (name, shape, columns of its values) of each output.
        reference: values of the reference model.
        candidate: values of the candidate, equal in shape.
    """
    rows = []
    for name, shape, columns in outputs:
        a, b = (values[:, columns].astype(np.float64) for values in (reference, candidate))
        noise, power = float(((b - a) ** 2).mean()), float((a * a).mean())
        rows.append(
            OutputError(
                name=name,
                shape=shape,
                mean_absolute_error=float(np.abs(b - a).mean()),
                standard_deviation=float(a.std()),
                correlation=correlation(a, b),
                sqnr_db=10 * math.log10(power / noise) if noise and power else None,
            )
        )
    return tuple(rows)


def correlation(reference: np.ndarray, candidate: np.ndarray) -> float | None:
    """Pearson's correlation of all values; None if one of the arrays is constant.

    >>> round(correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])), 6)
    1.0
    """
    a, b = (values - values.mean() for values in (reference, candidate))
    spread = float((a * a).sum() * (b * b).sum())
    return float((a * b).sum()) / math.sqrt(spread) if spread > _SMALLEST**2 else None


def relative_errors(
    outputs: Sequence[tuple[str, tuple[int, ...], slice]],
    reference: np.ndarray,
    candidate: np.ndarray,
) -> np.ndarray:
    """The squared error of each image over the variance of the reference, (n,): the mean over the
    outputs. 0: equal; 1: as far as the mean value.
    """
    errors = np.zeros(len(reference))
    for _, _, columns in outputs:
        a, b = (values[:, columns].astype(np.float64) for values in (reference, candidate))
        errors += ((b - a) ** 2).mean(-1) / max(float(a.var()), _SMALLEST) / len(outputs)
    return errors
