"""Finds the variant that a name or a file means. No Keras, no TensorFlow."""

from __future__ import annotations

import fnmatch
import os

from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_file import read_variant
from keras_effnet.variants import NETWORKS, VARIANTS, Variant

_FILES = (".keras", ".h5", ".tflite")  # of models that some commands take beside names
_EXAMPLE = "give the path of a model file, or a name of `effnet models`"


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
    raise ValueError(unknown_model(model))


def unknown_model(model: object) -> str:
    """The message for a model that is neither a name nor a file that can be used.

    >>> unknown_model("a/model")
    "model 'a/model' does not exist: give the path of a model file, or a name of `effnet models`"
    """
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        if os.path.isdir(path):
            inside = [name for name in sorted(os.listdir(path)) if name.endswith(_FILES)]
            better = f"give {os.path.join(path, inside[0])}" if inside else _EXAMPLE
            return f"model {path!r} is a folder: {better}"
        is_path = path.endswith(_FILES) or os.path.basename(path) != path
        if is_path and not os.path.exists(path):
            return f"model {path!r} does not exist: {_EXAMPLE}"
    return unknown_name("model", model, NETWORKS)
