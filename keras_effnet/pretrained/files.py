"""Reads weights from ``.h5``, ``.weights.h5`` and ``.keras`` files, and writes ``.h5`` files.

Weights are {layer name: arrays, in the order of ``layer.weights``}.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from keras_effnet.atomic_write import replacing
from keras_effnet.keras_file import load_keras_file
from keras_effnet.pretrained.input_spec import (
    ATTRIBUTE,
    InputSpec,
    format_attribute,
    is_normalization,
)

_SUFFIXES = (".keras", ".weights.h5", ".h5")


def read_weights(
    path: str | os.PathLike[str], layers: Sequence = ()
) -> dict[str, list[np.ndarray]]:
    """{layer name: arrays} of a file, without normalization constants.

    `layers` are the layers of a model of the same network. A ``.weights.h5`` file numbers its
    layers, and takes their names from there; the other files store names.

    Raises ``ValueError`` for a file that is truncated or of another format.
    """
    path = os.fspath(path)
    if not path.endswith(_SUFFIXES):
        raise ValueError(
            f"{path} does not end in {', '.join(_SUFFIXES)}. Convert checkpoints of other projects "
            "first: effnet port --help"
        )
    if path.endswith(".keras"):
        return _read_keras(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} is not an HDF5 file (truncated, or of another format): {error}"
        ) from error
    with file:
        root = file.get("model_weights", file)
        try:
            if "layer_names" not in root.attrs:
                return _read_numbered(root.get("layers", {}), layers)
            return _read_named(root)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged, or of another format: {error}") from error


def write_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, Sequence[np.ndarray]],
    input_spec: InputSpec,
) -> None:
    """Writes {layer name: arrays} as an ``.h5`` file in keras.applications' layout, atomically.

    The file also states `input_spec`, so that a path gives the same model as the weights' name.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in weights]
        file.attrs["backend"] = b"keras_effnet"
        file.attrs[ATTRIBUTE] = format_attribute(input_spec)
        for name, arrays in weights.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"%d" % i for i in range(len(arrays))]
            for i, array in enumerate(arrays):
                group.create_dataset(str(i), data=array)


def _read_keras(path):
    return {
        layer.name: layer.get_weights()
        for layer in load_keras_file(path).layers
        if layer.weights and not is_normalization(layer.name)
    }


def _read_named(root):
    """The legacy layout: one group for each layer, its arrays in the order of an attribute."""
    weights = {}
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        arrays = [group[_text(key)][()] for key in group.attrs["weight_names"]]
        if arrays and not is_normalization(name):
            weights[name] = arrays
    return weights


# The group names of each layer class in a ".weights.h5".
_NUMBERED = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}


def _read_numbered(groups, layers):
    """A ".weights.h5" numbers each class's layers in the model's order: conv2d, conv2d_1, ..."""
    counts = collections.Counter()
    names = {}
    for layer in layers:
        kind = _NUMBERED.get(type(layer).__name__)
        if kind:
            names[f"{kind}_{counts[kind]}" if counts[kind] else kind] = layer.name
            counts[kind] += 1
    weights = {}
    for key, group in groups.items():
        variables = group.get("vars", {})
        if len(variables) and not is_normalization(key):
            weights[names.get(key, key)] = [variables[str(i)][()] for i in range(len(variables))]
    return weights


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
