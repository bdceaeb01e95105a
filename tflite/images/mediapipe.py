"""The preprocessing of MediaPipe's ImageClassifier.

Measured by classifying random pixels with a model that returns its input. In MediaPipe 1.1.0, the
Python package and the browser package (@mediapipe/tasks-vision) give the same pixels.
"""

from __future__ import annotations

import numpy as np


def stretch(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels that MediaPipe feeds to a model: uint8 (height, width, channels) of an image,
    uint8 (h, w, channels).

    The full image, without crop or antialiasing, bilinear between the top left corners of pixels:
    pixel i of n is sampled at ``i * size / n``, rounded to 1/32 pixel, as OpenCV warps. The resize
    of training samples at the centers, half a pixel of the new size further to the lower right.

    The result is exact, unless a position lies exactly between two 32nds, where OpenCV's rounding
    error decides. At 224, 240, 260, 288 and 300 pixels this never happens.

    >>> stretch(np.array([[[0], [100]]], np.uint8), 1, 4)[0, :, 0].tolist()
    [0, 50, 100, 100]
    """
    out = np.asarray(image)
    for axis, size in ((0, height), (1, width)):
        have = image.shape[axis]
        at = np.rint(np.arange(size) * have * 32 / size).astype(np.int64)
        share = (at % 32 / 32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = (out.take(np.minimum(i, have - 1), axis) for i in (at // 32, at // 32 + 1))
        out = first * (1 - share) + second * share
    return np.floor(out + 0.5).astype(np.uint8)  # 0.5 rounds up
