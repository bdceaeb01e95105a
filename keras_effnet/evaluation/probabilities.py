"""Probabilities of a classifier's outputs."""

from __future__ import annotations

import numpy as np

# Probabilities of a float32 output below this are not told apart in a loss (scikit-learn's rule).
FLOAT32_FLOOR = float(np.finfo(np.float32).eps)


def log_probabilities(
    scores, output_activation: str, *, output_scale: float = 0.0, floor: float = 1e-9
) -> np.ndarray:
    """Natural logarithms of the probabilities, (n, classes) float64, of scores (n, classes).

    Args:
        scores: dequantized outputs of the model.
        output_activation: "logits" are normalized by a softmax; "softmax" outputs are scaled to
            sum 1, which 8 bits only approximate; "sigmoid" outputs, independent classes, are kept.
        output_scale: scale of a quantized output. Probabilities are at least half of it, because
            all smaller ones are quantized to 0.
        floor: least probability of "softmax" and "sigmoid" outputs.
    """
    scores = np.asarray(scores, np.float64)
    if output_activation == "logits":
        shifted = scores - scores.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    floor = max(floor, output_scale / 2)
    if output_activation == "sigmoid":
        return np.log(np.clip(scores, floor, 1 - floor))
    clipped = np.maximum(scores, floor)
    return np.log(clipped / clipped.sum(-1, keepdims=True))
