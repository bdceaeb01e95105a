"""Crops and resizes images as a network's weights require. No Keras here.

A :class:`Preprocessing` belongs to the weights (:mod:`keras_effnet.pretrained.registry`). A model
stores it in the name of an identity layer, so that every file of the model keeps it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.model_graph import flat_layers, require_model

INTERPOLATIONS = ("bilinear", "bicubic")

# The name of the identity layer that stores a Preprocessing; `name_prefix` may precede it.
_LAYER_NAME = re.compile(r"(?:.*_)?preprocessing_(\d+)px_(whole|crop(\d\.\d+))_(bilinear|bicubic)")


@dataclass(frozen=True)
class Preprocessing:
    """How to crop and resize an image of any size.

    Pixels stay RGB in [0, 255]: the network normalizes them.
    """

    image_size: int  # pixels a side
    crop: float | None  # centered, relative to the shorter side; None: no crop, stretched
    interpolation: str  # "bilinear" | "bicubic"

    def __post_init__(self):
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} is too small: give at least 1 pixel")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(
                f"crop {self.crop} is out of range: give one in (0, 1], or None for no crop"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {self.interpolation!r} is unknown: give 'bilinear' or 'bicubic'"
            )

    def __str__(self) -> str:
        region = (
            "the whole image, stretched"
            if self.crop is None
            else f"center square of {self.crop:.3g} of the shorter side"
        )
        return (
            f"RGB in [0, 255]; {region}; {self.interpolation} to "
            f"{self.image_size} x {self.image_size} pixels"
        )

    @property
    def layer_name(self) -> str:
        """The name of the layer that stores this in a file."""
        crop = "whole" if self.crop is None else f"crop{self.crop:.4f}"
        return f"preprocessing_{self.image_size}px_{crop}_{self.interpolation}"


def preprocessing(model) -> Preprocessing:
    """The :class:`Preprocessing` stored in a ``keras.Model``, or in a model nested in it.

    Its size is the model's input size, if that is fixed. Raises ``ValueError`` for a model without
    it, i.e. one that was not built by keras_effnet, and for anything that is not a model.

    >>> from keras_effnet import create_model
    >>> print(preprocessing(create_model("efficientnetv2-b0")))
    RGB in [0, 255]; center square of 0.875 of the shorter side; bicubic to 224 x 224 pixels
    """
    require_model(model)
    for layer, _ in flat_layers(model):
        stored = parse_layer_name(layer.name)
        if stored is not None:
            shape = getattr(model, "input_shape", ())  # a subclassed model has none
            size = shape[1:3] if len(shape) == 4 and shape[-1] in (1, 3) else ()
            sides = {n for n in size if n is not None}
            return replace(stored, image_size=sides.pop()) if len(sides) == 1 else stored
    raise ValueError(
        f"{model.name} does not state its preprocessing: it was not built by "
        "keras_effnet.create_model. Use keras_effnet.Preprocessing(image_size, crop, interpolation)"
    )


def parse_layer_name(layer_name: str) -> Preprocessing | None:
    """The :class:`Preprocessing` stored in a layer's name, or None.

    >>> parse_layer_name(Preprocessing(224, 0.875, "bicubic").layer_name)
    Preprocessing(image_size=224, crop=0.875, interpolation='bicubic')
    """
    match = _LAYER_NAME.fullmatch(layer_name)
    if not match:
        return None
    size, _, crop, interpolation = match.groups()
    return Preprocessing(int(size), crop and float(crop), interpolation)


def preprocess_input(x, data_format=None):
    """Returns `x` unchanged, as ``preprocess_input`` of keras.applications' EfficientNets does.

    The network normalizes pixels itself: give it RGB in [0, 255]. :func:`preprocess` crops and
    resizes an image as the weights require.

    >>> preprocess_input(7)
    7
    """
    return x


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The cropped and resized image: uint8 (size, size, channels) in [0, 255].

    `image` is uint8 (height, width, channels). As in the official evaluation, crops a center square
    of ``int(crop * shorter side)`` pixels, then resizes without antialiasing (google/automl
    efficientnetv2/preprocess_legacy.py). Raises ``ValueError`` for another shape or dtype.

    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> preprocess(image, Preprocessing(32, 0.875, "bicubic")).shape
    (32, 32, 3)
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"the image is {image.dtype} {image.shape}: give uint8 (height, width, channels)"
        )
    if preprocessing.crop is not None:
        height, width = image.shape[:2]
        side = max(1, int(preprocessing.crop * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        image = image[top : top + side, left : left + side]
    size = preprocessing.image_size
    return resize(image, size, size, preprocessing.interpolation)


def resize(
    image: np.ndarray, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """The resized image: uint8 (height, width, channels).

    `image` is uint8 (h, w, channels). Follows ``tf.image.resize`` without antialiasing: half-pixel
    centers; bicubic is Keys' kernel with a = -0.5, with weights renormalized at the border.

    >>> resize(np.array([[[0], [100]]], np.uint8), 1, 4)[0, :, 0].tolist()
    [0, 25, 75, 100]
    """
    out = image
    for axis, size in ((0, height), (1, width)):
        if image.shape[axis] != size:
            taps = _taps(image.shape[axis], size, interpolation)
            shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
            out = sum(out.take(at, axis) * weight.reshape(shape) for at, weight in taps)
    return out if out is image else np.rint(np.clip(out, 0, 255)).astype(np.uint8)


def _taps(source, size, interpolation):
    """[(indices, weights), ...]: the source pixels of each of `size` pixels, of `source`."""
    at = (np.arange(size) + 0.5) * (source / size) - 0.5
    low = np.floor(at).astype(np.int64)
    rest = at - low
    if interpolation == "bilinear":
        taps = [(low, 1 - rest), (low + 1, rest)]
        return [(np.clip(i, 0, source - 1), w.astype(np.float32)) for i, w in taps]
    taps = [(low + k, _cubic(np.abs(rest - k))) for k in (-1, 0, 1, 2)]
    inside = [(i, np.where((i >= 0) & (i < source), w, 0.0)) for i, w in taps]
    total = sum(w for _, w in inside)
    return [(np.clip(i, 0, source - 1), (w / total).astype(np.float32)) for i, w in inside]


def _cubic(x, a=-0.5):
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
