"""What a weight file states about its images and its network: preprocessing, normalization, ..."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from keras_effnet.image_preprocessing import Preprocessing, parse_layer_name
from keras_effnet.variants import Normalization

ATTRIBUTE = "keras_effnet"  # of an .h5 file written here; its value is format_attribute's text

_PLAIN_FIELDS = ("bn_epsilon", "padding", "classes", "network", "source")


@dataclass(frozen=True)
class InputSpec:
    """The images and the network that weights expect; None where it is unknown."""

    preprocessing: Preprocessing | None = None
    normalization: Normalization | None = None
    image_size: int | None = None  # pixels a side of a stored model's input, if it is square
    bn_epsilon: float | None = None
    padding: str | None = None  # as in ``Variant``
    classes: int | None = None  # of the classifier
    network: str | None = None  # the variant's name
    source: str | None = None  # where the weights were downloaded


def read_input_spec(path: str | os.PathLike[str]) -> InputSpec:
    """The :class:`InputSpec` that a file states in its attribute or in the layers of its model.

    An unreadable file states nothing: ``files.read_weights`` reports what is wrong with it.
    """
    path = os.fspath(path)
    try:
        return _of_keras_file(path) if path.endswith(".keras") else _of_h5_file(path)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError):
        return InputSpec()


def _of_keras_file(path):
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
        return _of_config(config, _stored_constants(file.read("model.weights.h5")))


def _of_h5_file(path):
    with h5py.File(path, "r") as file:
        if ATTRIBUTE in file.attrs:
            return parse_attribute(file.attrs[ATTRIBUTE])
        spec = _of_config(json.loads(file.attrs.get("model_config", "{}")))
        return replace(spec, classes=spec.classes or _count_classes(file))


def format_attribute(input_spec: InputSpec) -> str:
    """The text that stores an input spec; its preprocessing and normalization must be known."""
    more = {name: getattr(input_spec, name) for name in _PLAIN_FIELDS}
    return json.dumps(
        {
            "preprocessing": input_spec.preprocessing.layer_name,
            "mean": input_spec.normalization.mean,
            "std": input_spec.normalization.std,
            **{name: value for name, value in more.items() if value is not None},
        }
    )


def parse_attribute(text: str) -> InputSpec:
    """The input spec in the text of :func:`format_attribute`.

    >>> normalization = Normalization((128.0,) * 3, (64.0,) * 3)
    >>> spec = InputSpec(Preprocessing(64, None, "bilinear"), normalization)
    >>> parse_attribute(format_attribute(spec)) == spec
    True
    """
    fields = json.loads(text)
    return InputSpec(
        parse_layer_name(fields["preprocessing"]),
        Normalization(tuple(fields["mean"]), tuple(fields["std"])),
        **{name: fields[name] for name in _PLAIN_FIELDS if name in fields},
    )


def is_normalization(layer_name: str) -> bool:
    """Whether a layer of that name holds normalization constants, which are not weights."""
    return layer_name.split("_")[0] == "normalization"


def _stored_constants(content):
    """(mean, variance) of a ``normalization`` layer in the weights of a .keras file, or Nones."""
    with h5py.File(io.BytesIO(content), "r") as file:
        group = file.get("layers/normalization/vars", {})
        return tuple(np.array(group[key]) if key in group else None for key in "01")


def _of_config(config, constants=(None, None)):
    """The input spec in a model's configuration, however deep its layers are nested.

    `constants` are the stored mean and variance, for a ``normalization`` that has none in its
    configuration. In keras.applications, a ``rescaling`` (pixel * scale + offset) precedes the
    ``normalization`` or stands alone. Its V1 networks with ImageNet weights have a second rescaling
    behind; for those the variant's normalization is used.
    """
    preprocessing, normalizations, rescalings = None, [], []
    stated = {}
    for item in _dicts(config):
        name = item.get("name") or ""
        if not isinstance(name, str):
            continue
        preprocessing = parse_layer_name(name) or preprocessing
        if name.endswith("stem_bn") and "epsilon" in item:
            stated["bn_epsilon"] = item["epsilon"]
        elif name.endswith("stem_conv_pad"):
            stated["padding"] = "symmetric"
        elif name.endswith("predictions") and "units" in item:
            stated["classes"] = item["units"]
        shape = item.get("batch_shape", item.get("batch_input_shape"))
        if "image_size" not in stated and isinstance(shape, list) and len(shape) == 4:
            stated["image_size"] = _side(shape[1:])
        if is_normalization(name) and "mean" in item:
            normalizations.append((item.get("mean"), item.get("variance")))
        elif name.split("_")[0] == "rescaling" and "scale" in item:
            rescalings.append((item.get("scale"), item.get("offset")))
    if rescalings and normalizations == [(None, None)]:
        normalizations = [constants]
    if preprocessing is None:  # not built by this package: only its stem_conv_pad is symmetric
        stated.pop("padding", None)
    elif "bn_epsilon" in stated:
        stated.setdefault("padding", "same")
    return InputSpec(preprocessing, _compose(normalizations, rescalings), **stated)


def _count_classes(file):
    """The classes of the classifier in an ``.h5`` file of weights; None without one."""
    classifier = file.get("model_weights", file).get("predictions")
    shapes = []
    if isinstance(classifier, h5py.Group):
        classifier.visititems(lambda _, item: shapes.append(getattr(item, "shape", ())))
    return next((shape[0] for shape in shapes if len(shape) == 1), None)


def _side(shape):
    """The pixels a side in an image's shape, in either data format; None if it is not square."""
    height, width = shape[1:] if shape[0] in (1, 3) else shape[:2]
    return height if isinstance(height, int) and height == width else None


def _dicts(config: Any) -> Iterator[dict]:
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _compose(normalizations: Sequence, rescalings: Sequence) -> Normalization | None:
    """One ``Normalization`` of pixels from a model's first layers; None if it is not determined."""
    if len(normalizations) > 1 or len(rescalings) > 1 or not (normalizations or rescalings):
        return None
    mean, variance = normalizations[0] if normalizations else ((0.0,) * 3, (1.0,) * 3)
    scale, offset = rescalings[0] if rescalings else (1.0, 0.0)
    if mean is None or variance is None or np.ndim(scale) or np.ndim(offset) or not scale:
        return None
    mean, variance = np.ravel(mean), np.ravel(variance)
    if len(mean) != 3:
        return None
    return Normalization(
        tuple(round(float(m - offset) / scale, 6) for m in mean),
        tuple(round(float(v) ** 0.5 / scale, 6) for v in variance),
    )
