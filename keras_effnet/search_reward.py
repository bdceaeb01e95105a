"""Rewards of architecture search: one number from accuracy and cost. No Keras."""

from __future__ import annotations

import math
import numbers


def training_aware_reward(
    accuracy: float,
    step_time: float,
    parameters: float,
    *,
    w: float = -0.07,
    v: float = -0.05,
) -> float:
    """EfficientNetV2's reward ``A * S**w * P**v`` (arXiv 2104.00298, section 3.2).

    `accuracy` A is a fraction or a percentage; `step_time` S and `parameters` P are relative to
    a reference network, so that the reference's reward is its accuracy. Raises ``ValueError`` for
    a cost that is not a positive number.

    >>> training_aware_reward(0.8, step_time=1.0, parameters=1.0)
    0.8
    >>> round(training_aware_reward(0.8, step_time=2.0, parameters=1.0), 4)
    0.7621
    """
    _check_accuracy(accuracy)
    _check_positive("step_time", step_time)
    _check_positive("parameters", parameters)
    return accuracy * step_time**w * parameters**v


def flops_reward(accuracy: float, flops: float, target: float, *, w: float = -0.07) -> float:
    """EfficientNet's reward ``A * (FLOPs / T)**w`` (arXiv 1905.11946, section 4).

    `flops` and `target` are in the same unit; B0 was found with a target of 400 million.

    >>> flops_reward(0.77, flops=400e6, target=400e6)
    0.77
    """
    _check_accuracy(accuracy)
    _check_positive("flops", flops)
    _check_positive("target", target)
    return accuracy * (flops / target) ** w


def _check_accuracy(value):
    if not _is_finite(value) or value < 0:
        raise ValueError(f"accuracy {value!r} is not a number of at least 0")


def _check_positive(what, value):
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"{what} {value!r} is not a number greater than 0")


def _is_finite(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
