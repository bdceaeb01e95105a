"""A network's ``preprocess_input`` as a layer: pixels in [0, 255] to what the network expects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

LAYER = "preprocess_input"  # its name in a network


@dataclass(frozen=True)
class PixelScaling:
    """Scale and offset of the red, green and blue values; `reversed` if blue comes first then.

    >>> PixelScaling((1 / 127.5,) * 3, (-1.0,) * 3).layer().get_config()["offset"]
    -1.0
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    reversed: bool = False

    def layer(self) -> keras.layers.Layer | None:
        """A ``Rescaling`` layer; None if it would change nothing. It does not reverse channels."""
        if self.scale == (1.0,) * 3 and self.offset == (0.0,) * 3:
            return None
        same = len(set(self.scale)) == len(set(self.offset)) == 1
        scale, offset = (self.scale[0], self.offset[0]) if same else (self.scale, self.offset)
        if not same:
            scale, offset = list(scale), list(offset)
        return keras.layers.Rescaling(scale, offset=offset, name=LAYER)


AROUND_0 = PixelScaling((1 / 127.5,) * 3, (-1.0,) * 3)  # [-1, 1]


def scaling_of(function: Callable) -> PixelScaling:
    """The scaling of the ``preprocess_input`` in a model function's module; without one, [-1, 1].

    All modules of keras.applications have one. Raises ``ValueError`` unless it scales each channel,
    in the order RGB or BGR.

    >>> scaling_of(keras.applications.EfficientNetB0).layer() is None  # scales inside
    True
    >>> scaling_of(keras.applications.ResNet50).reversed
    True
    """
    preprocess = getattr(sys.modules.get(function.__module__), LAYER, None)
    if preprocess is None:
        return AROUND_0

    def output(*pixel):
        pixels = np.array(pixel, np.float32).reshape(1, 1, 1, 3)
        return np.asarray(preprocess(pixels), np.float64).reshape(3)

    offset = output(0, 0, 0)
    matrix = np.stack([output(*(255 * row)) - offset for row in np.eye(3)]) / 255  # RGB to outputs
    is_reversed = abs(matrix[0, 2]) > abs(matrix[0, 0])
    if is_reversed:
        matrix, offset = matrix[:, ::-1], offset[::-1]
    scale = np.diag(matrix)
    sample = np.array([10.0, 200.0, 90.0])
    expected = (sample * scale + offset)[:: -1 if is_reversed else 1]
    if not np.allclose(output(*sample), expected, atol=1e-3):
        raise ValueError(
            f"{function.__module__}.{LAYER} does more than to scale the channels of an image: put "
            "it into the model as layers, in a function of your own (docs/any-network.md)"
        )
    scale, offset = (tuple(float(np.float32(v)) for v in values) for values in (scale, offset))
    return PixelScaling(scale, offset, bool(is_reversed))
