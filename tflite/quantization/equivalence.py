"""Check that a graph transform preserves the function of a float model."""

from __future__ import annotations

import numpy as np

from keras_effnet.litert import ops, runner

TOLERANCE = 1e-4  # of the largest |score|, or of 1 if that is smaller


def require_same_scores(before: bytes, after: bytes, images: np.ndarray, transform: str) -> None:
    """Raises ``ConversionError`` if the scores of two float .tflite differ by more than 1e-4.

    Args:
        before: bytes of the original.
        after: bytes of the transformed model.
        images: uint8 (n, height, width, 3).
        transform: its name, for the error.
    """
    wanted, scores = (runner.scores(model, images) for model in (before, after))
    worst = np.abs(scores - wanted).max() / max(1.0, np.abs(wanted).max())
    if not worst < TOLERANCE:
        raise ops.ConversionError(
            f"{transform} changes the scores by {worst:.2g}; {TOLERANCE:g} is allowed"
        )
