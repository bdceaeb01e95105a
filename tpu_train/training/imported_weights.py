"""Weight files of networks that are not of this package: ``--model=module:f --weights=x.h5``."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable

import h5py
import keras

from tpu_train.imported_function import describe
from tpu_train.training.pixel_scaling import LAYER

SUFFIXES = (".keras", ".weights.h5", ".h5")
_OPTIMIZERS = ("optimizer", "optimizer_weights", "_optimizer")


def load_into(build: Callable[[int], keras.Model], path: str, classes: int) -> keras.Model:
    """A network with the weights of a file; it has the number of classes of the file.

    Args:
        build: returns the network with random weights and a given number of classes.
        path: .keras, .weights.h5 or .h5, of the same network with any number of classes.
        classes: the expected number.

    Raises ``ValueError`` if the weights in the file are not those of the network.
    """
    try:
        shapes = _shapes(path)
        network = build(classes)
        kernel = _classifier_shape(network)
        ours = Counter(tuple(w.shape) for w in network.weights)
        missing, others = ours - shapes, shapes - ours
        if missing[kernel]:
            candidates = {shape[-1] for shape in others if shape[:-1] == kernel[:-1]}
            candidates = [n for n in candidates if n != classes]
            if len(candidates) == 1:
                network = build(candidates[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # layers that would stay random
            network.load_weights(path)
    except (ValueError, KeyError, OSError, TypeError, UserWarning, zipfile.BadZipFile) as error:
        raise ValueError(
            f"the weights in {path!r} are not those of this network: {describe(error)[:300]}"
        ) from error
    return network


def reverse_first_kernel(network: keras.Model, path: str = "") -> None:
    """Makes a network that was trained on BGR images take RGB: reverses its first kernel.

    A .keras file that was written after a training (`path`) takes RGB already.
    """
    if path.endswith(".keras") and _has_scaling(path):
        return
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 3:
            kernel, *bias = layer.get_weights()
            layer.set_weights([kernel[:, :, ::-1], *bias])
            return
    raise ValueError(f"{network.name} takes BGR images and does not begin with a convolution")


def classifier_of(network: keras.Model) -> keras.layers.Layer:
    """The last layer with weights; ``ValueError`` unless it is a Dense or Conv2D layer."""
    weighted = [layer for layer in network.layers if layer.weights]
    if not weighted or not isinstance(weighted[-1], (keras.layers.Dense, keras.layers.Conv2D)):
        kind = type(weighted[-1]).__name__ if weighted else "none"
        raise ValueError(
            f"the last layer with weights of {network.name} must be a Dense or Conv2D layer, and "
            f"is {kind}"
        )
    return weighted[-1]


def _classifier_shape(network):
    return tuple(classifier_of(network).kernel.shape)


def _shapes(path):
    """Counts of the shapes of all arrays in a file, but an optimizer's."""
    shapes = Counter()

    def count(name, item):
        if isinstance(item, h5py.Dataset) and name.split("/")[0] not in _OPTIMIZERS:
            shapes[tuple(item.shape)] += 1

    source = path
    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(source, "r") as file:
        file.visititems(count)
    return shapes


def _has_scaling(path):
    with zipfile.ZipFile(path) as archive:
        layers = json.loads(archive.read("config.json"))["config"].get("layers", ())
    return any(layer["config"].get("name") == LAYER for layer in layers)
