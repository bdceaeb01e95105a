"""What MediaPipe's ImageClassifier makes of an image before it reaches the .tflite.

Found out by classifying noise with a model that returns its pixels; the same in its Python
package 1.2.2 and in a browser (@mediapipe/tasks-vision 1.1.0).
"""

import numpy as np


def stretch(image, height, width):
    """uint8 (height, width, channels) of an image, uint8 (h, w, channels), bit for bit MediaPipe's.

    The whole image, no crop, no antialias, bilinear between the pixels' top left corners: pixel i
    of n is taken at ``i * size / n``. Training's resize takes it at the centres, which is half of
    the new pixel further to the lower right.

    >>> stretch(np.array([[[0], [100]]], np.uint8), 1, 4)[0, :, 0].tolist()
    [0, 50, 100, 100]
    """
    out = np.asarray(image)
    for axis, size in ((0, height), (1, width)):
        have = image.shape[axis]
        at = np.arange(size) * (have / size)
        low = np.floor(at).astype(np.int64)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = out.take(low, axis), out.take(np.minimum(low + 1, have - 1), axis)
        out = first * (1 - share) + second * share
    return np.floor(out + 0.5).astype(np.uint8)  # halves go up
