"""Finds the variant that a name or a file means. No Keras, no TensorFlow."""

from __future__ import annotations

import fnmatch
import os

from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_file import read_variant
from keras_effnet.variants import NETWORKS, VARIANTS, Variant

_FILES = (".keras", ".h5", ".tflite")  # of models that some commands take beside names


def list_models(pattern: str = "*") -> list[str]:
    """Names of the EfficientNets that match a shell pattern, in the table's order.

    >>> list_models("*v2-b*")
    ['efficientnetv2-b0', 'efficientnetv2-b1', 'efficientnetv2-b2', 'efficientnetv2-b3']
    """
    return [name for name in VARIANTS if fnmatch.fnmatchcase(name, pattern)]


def find_variant(model: str | os.PathLike[str] | Variant) -> Variant:
    """The :class:`Variant` that `model` means.

    `model` is a name of :func:`list_models`, "mobilenetv2" or "resnet50", the path of a ``.json``
    file that ``effnet scale`` or an architecture search wrote (:mod:`keras_effnet.variant_file`),
    or a variant, which is returned.
    Raises ``ValueError`` with the nearest names for an unknown one, and for a file that is not a
    variant.

    >>> find_variant("efficientnet-b3").image_size
    300
    """
    if isinstance(model, Variant):
        return model
    if model in NETWORKS:
        return NETWORKS[model]
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".json"):
        return read_variant(model)
    if isinstance(model, (str, os.PathLike)):
        ending = os.path.splitext(model)[1]
        if ending in _FILES and not os.path.exists(model):
            raise ValueError(f"model {os.fspath(model)!r} is not there: no such {ending} file")
    raise ValueError(unknown_name("model", model, NETWORKS))
