"""What a ``.keras`` or ``.tflite`` file states: size, hash, parameters, classes and input."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence

import h5py

from keras_effnet.litert import classifier, metadata, runtime
from keras_effnet.pretrained.input_spec import read_input_spec
from keras_effnet.provenance import file_sha256

PIXEL_RANGE = (0, 255)  # of every model of this package: normalization is inside
_NO_WEIGHTS = ("optimizer", "metrics", "seed_generator", "random_generator")  # groups


def describe_keras(path: str) -> dict:
    """The facts of a ``.keras`` file, without building the model; None where the file has none.

    "file", "format", "size_bytes", "sha256", "parameters", "class_names" (None: the file
    has none), and "input": "height", "width", "channels", "dtype", "pixel_range", "crop"
    (of the shorter side; 0: the whole image, stretched), "interpolation", "mean", "std".

    Raises ``ValueError`` for a file that is not a ``.keras`` file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            config = json.loads(file.read("config.json"))
            parameters = _count_parameters(file.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a .keras file: {error}") from error
    return {
        "file": os.path.basename(path),
        "format": "keras",
        "size_bytes": os.path.getsize(path),
        "sha256": file_sha256(path),
        "parameters": parameters,
        "class_names": None,
        "input": _keras_input(config, path),
    }


def describe_tflite(
    content: bytes, path: str, class_names: Sequence[str] | None = None
) -> dict | None:
    """The facts of a ``.tflite``, as :func:`describe_keras`; None if it is not a classifier.

    Class names are `class_names`, else those in the file. Crop, interpolation, mean and standard
    deviation are None: the file applies the last two, and states none of them. Raises
    ``ValueError`` for content that is not a ``.tflite`` image model.
    """
    opened = classifier.open_classifier(content, path)
    is_unit = opened.classes == 1 and len(opened.outputs) == 1
    if not (opened.is_classifier or is_unit):
        return None
    described = metadata.read(content)
    names = class_names or (described and described.labels)
    return {
        "file": os.path.basename(path),
        "format": "tflite",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": None,
        "class_names": list(names) if names else None,
        "input": {
            "height": opened.height,
            "width": opened.width,
            "channels": opened.channels,
            "dtype": _tflite_dtype(content),
            "pixel_range": list(PIXEL_RANGE),
            "crop": None,
            "interpolation": None,
            "mean": None,
            "std": None,
        },
    }


def _count_parameters(weights):
    """Number of values that a model's layers store: trained weights and statistics."""
    total = 0

    def add(name, item):
        nonlocal total
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and not any(p.startswith(_NO_WEIGHTS) for p in parts):
            total += item.size

    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(add)
    return total


def _keras_input(config, path):
    spec = read_input_spec(path)
    sides = _input_shape(config)
    if sides is not None and sides[0] in (1, 3) and sides[2] not in (1, 3):  # channels first
        sides = (*sides[1:], sides[0])
    height, width, channels = sides or (None, None, None)
    stated = spec.preprocessing
    if stated is not None:
        height, width = height or stated.image_size, width or stated.image_size
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "dtype": "float32",
        "pixel_range": list(PIXEL_RANGE) if stated is not None else None,
        "crop": stated and (stated.crop or 0.0),
        "interpolation": stated and stated.interpolation,
        "mean": list(spec.normalization.mean) if spec.normalization else None,
        "std": list(spec.normalization.std) if spec.normalization else None,
    }


def _input_shape(config):
    """(a, b, c) of a configuration's first image input; None if it has none."""
    layers = config.get("config", {}).get("layers", ()) if isinstance(config, Mapping) else ()
    for layer in layers:
        if layer.get("class_name") == "InputLayer":
            settings = layer.get("config", {})
            shape = settings.get("batch_shape") or settings.get("batch_input_shape") or ()
            if len(shape) == 4:
                return tuple(shape[1:])
    return None


def _tflite_dtype(content):
    return runtime.interpreter(content).get_input_details()[0]["dtype"].__name__
