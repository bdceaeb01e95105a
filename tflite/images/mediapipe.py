"""What MediaPipe's ImageClassifier makes of an image before it reaches the .tflite.

Found out by classifying noise with a model that returns its pixels; the same in its Python
package 1.2.2 and in a browser (@mediapipe/tasks-vision 1.1.0).
"""

import numpy as np


def stretch(image, height, width):
    """uint8 (height, width, channels) of an image, uint8 (h, w, channels): MediaPipe's own pixels.

    The whole image, no crop, no antialias, bilinear between the pixels' top left corners: pixel i
    of n is taken at ``i * size / n``, to 1/32 pixel, as OpenCV warps. Training's resize takes it at
    the centres, half of a new pixel further to the lower right.

    Bit for bit, unless a position is exactly between two 32nds, where OpenCV's rounding error
    decides. At 224, 240, 260, 288 and 300 pixels none ever is.

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
    return np.floor(out + 0.5).astype(np.uint8)  # halves go up
