"""A finding about a model or its data, and arrays of anything that users call data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Finding:
    """A probable mistake, and how to fix it."""

    check: str  # the name of the check, e.g. "scaled-twice"
    message: str

    def __str__(self):
        return f"{self.check}: {self.message}"


def to_array(values) -> np.ndarray | None:
    """A NumPy array of anything; of dtype object if it is not rectangular or not data.

    >>> to_array([[1, 2], [3]]).dtype
    dtype('O')
    """
    if values is None:
        return None
    data = isinstance(values, (list, tuple, int, float, complex, str, bytes, np.generic))
    if not data and not hasattr(values, "__array__") and not hasattr(values, "__dlpack__"):
        return np.array([None])  # e.g. a data set: converting it would read all of it
    try:
        array = np.asarray(values)
    except Exception:  # the conversion is that of the object's class
        return np.array([None])
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # bfloat16
        return array.astype("float32")
    return array
