"""The images that a model takes, and how photos of any size become such images. No Keras here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.image_preprocessing import Preprocessing, preprocess, preprocessing, resize


@dataclass(frozen=True)
class ImageInput:
    """The images that a model takes, and how photos become such images."""

    preprocessing: Preprocessing
    height: int
    width: int
    channels: int  # 1 or 3
    channels_first: bool

    def __str__(self):
        side = self.preprocessing.image_size
        text = str(self.preprocessing)
        if self.height != self.width:
            text = text.replace("center square of", "center region of the same shape,")
            text = text.replace(f"{side} x {side} pixels", f"{self.height} x {self.width} pixels")
        return text.replace("RGB", "grey") if self.channels == 1 else text

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, channels) of an RGB image."""
        if self.channels == 1:  # luma of ITU-R 601, rounded as by Pillow
            luma = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            image = ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]
        if self.height == self.width:
            return preprocess(image, self.preprocessing)
        crop = self.preprocessing.crop
        if crop is not None:
            factor = crop * min(image.shape[0] / self.height, image.shape[1] / self.width)
            sides = (max(1, int(factor * side)) for side in (self.height, self.width))
            (top, high), (left, wide) = (
                ((given - side + 1) // 2, side) for given, side in zip(image.shape, sides)
            )
            image = image[top : top + high, left : left + wide]
        return resize(image, self.height, self.width, self.preprocessing.interpolation)

    def for_model(self, image: np.ndarray) -> np.ndarray:
        """A prepared image in the model's data format."""
        return image.transpose(2, 0, 1) if self.channels_first else image


def image_input(model) -> ImageInput:
    """The :class:`ImageInput` of a model; stretched to its input size if it does not state more.

    Raises ``ValueError`` for a model that does not take one image of 1 or 3 channels.
    """
    inputs = getattr(model, "inputs", None) or ()
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"{model.name} has inputs of shapes {shapes}: this command takes models of one image "
            "(batch, height, width, channels)"
        )
    channels_first = shapes[0][1] in (1, 3) and shapes[0][3] not in (1, 3)
    shape = shapes[0][1:]
    height, width, channels = (*shape[1:], shape[0]) if channels_first else shape
    if channels not in (1, 3):
        raise ValueError(
            f"{model.name} takes images of {channels} channels, but image files have 1 or 3: call "
            "the model on your arrays in Python"
        )
    fixed = None not in (height, width)
    try:
        stated = preprocessing(model)
    except ValueError:
        if not fixed:
            raise
        stated = Preprocessing(height, None, "bilinear")
    if not fixed:
        height, width = height or stated.image_size, width or stated.image_size
    elif height == width:
        stated = replace(stated, image_size=height)
    return ImageInput(stated, height, width, channels, channels_first)
