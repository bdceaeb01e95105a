"""Reads fields of JSON files that may be damaged or of another program: each has its type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def read_object(path: str) -> dict:
    """The object in a JSON file; ``OSError`` or ``ValueError`` without one."""
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    if not isinstance(record, dict):
        raise ValueError("an object is expected")
    return record


def number(value: Any) -> float:
    """A finite number; ``ValueError`` for anything else.

    >>> number(1), number(0.5)
    (1, 0.5)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value


def measured(value: Any) -> float | None:
    """A number; None for None, and for NaN and infinity, as a diverged model gives.

    >>> measured(0.5), measured(float("nan"))
    (0.5, None)
    """
    is_finite = value is not None and not (isinstance(value, float) and not math.isfinite(value))
    return number(value) if is_finite else None


def count(value: Any) -> int:
    """A number of things: an integer of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def string(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def optional(read: Callable, value: Any) -> Any:
    """``read(value)``; None for None."""
    return None if value is None else read(value)


def interval(value: Any) -> list[float] | None:
    """[low, high]; None if one is undefined."""
    low, high = value
    ends = [measured(low), measured(high)]
    return None if None in ends else ends


def numbers(value: Mapping, names: Sequence[str]) -> dict[str, float | None]:
    """{name: number, or None} of an object."""
    return {name: measured(value[name]) for name in names}
