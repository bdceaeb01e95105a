"""Weights into a model, by layer name, every shape checked: a released set, or any file.

What a set needs of its images (:mod:`keras_effnet.pretrained.registry`) travels with it: files written here
say it, and a model is built to it, so that a path gives the same answers as the set's name.
"""

import collections
import io
import json
import logging
import os
import pathlib
import urllib.parse
import warnings
import zipfile
from dataclasses import dataclass
from typing import Optional

import h5py
import numpy as np

from keras_effnet.image_preprocessing import Preprocessing, parse
from keras_effnet.labels import label_map
from keras_effnet.model_cost import cost
from keras_effnet.pretrained import download
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS, best_weights, list_weights
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import Normalization

_LOG = logging.getLogger("keras_effnet")
_ENDINGS = (".keras", ".weights.h5", ".h5")
_CONTRACT = "keras_effnet"  # the attribute of an .h5 file that says what its images must be


@dataclass(frozen=True)
class InputSpec:
    """What weights expect of an image; None where it is not known."""

    preprocessing: Optional[Preprocessing]
    normalization: Optional[Normalization]


def find(variant, weights):
    """What `weights` means for a variant's name: None, a ``PretrainedWeights``, or a path. Fetches
    nothing.

    Raises ``ValueError`` for an unknown set and a path that is not there.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights {weights!r} is neither None, nor a set's name, nor a path")
    weights = os.fspath(weights)
    sets = list_weights(variant)
    if weights == "auto" and sets:
        row = best_weights(variant)
        _LOG.info("%s: weights='auto' takes %r", variant, row.name)
        return row
    if weights in sets:
        return PRETRAINED_WEIGHTS[variant, weights]
    if os.path.isfile(weights):
        return pathlib.Path(weights)
    known = (
        unknown_name("weights", weights, ["auto", *sets])
        if sets
        else f"Unknown weights {weights!r}."
    )
    raise ValueError(
        f"{known} ({variant} has {len(sets)} released sets, and no file has that name.) "
        "Give weights=None for random weights, or a path: .keras, .weights.h5 or .h5"
    )


def fetch(row, plan, *, include_top=True):
    """The path of a released set's file, downloaded at the first time; archives of TensorFlow
    checkpoints are converted at the first time (which takes TensorFlow).

    `plan` is the variant's. Raises ``DownloadError`` when the file cannot be had or is not the
    published one.
    """
    headless = row.notop_url is not None and not include_top
    url, md5 = (row.notop_url, row.notop_md5) if headless else (row.url, row.md5)
    folder = download.cache_folder()
    if url.endswith(".h5"):  # where Keras itself would look for it
        return download.fetch(url, folder / url.rsplit("/", 1)[-1], md5=md5)
    archive = folder / "keras_effnet" / urllib.parse.urlsplit(url).path.lstrip("/")
    converted = archive.with_name(archive.name.split(".")[0] + ".h5")
    if not download.intact(converted):
        archive = download.fetch(url, archive, md5=md5)
        _convert(archive, converted, row, plan)
    return converted


def _convert(archive, converted, row, plan):
    from keras_effnet.pretrained import tf_checkpoint  # here: porting reads other projects' files

    # weights, their averages, and the optimizer's slots, in float32; and the graph's definition
    limit = 6 * 4 * cost(plan, classes=row.classes).parameters + (256 << 20)
    with download.temporary_beside(converted) as folder:
        download.unpack(archive, folder / "checkpoint", limit=limit)
        found = sorted((folder / "checkpoint").rglob("*.index"))
        if len(found) != 1:
            raise ValueError(
                f"{archive} holds {len(found)} checkpoints, one is expected: delete it and try "
                "again"
            )
        stored = tf_checkpoint.read(str(found[0].with_suffix("")), plan)
        write(folder / "new.h5", stored, InputSpec(row.preprocessing, row.normalization))
        os.replace(folder / "new.h5", converted)
    download.record(converted)


def read_input_spec(path):
    """The :class:`InputSpec` that a file states: its own attribute, or a whole model's layers."""
    if path is None:
        return InputSpec(None, None)
    path = os.fspath(path)
    if path.endswith(".keras"):
        try:
            with zipfile.ZipFile(path) as file:
                config = json.loads(file.read("config.json"))
                constants = _constants(file.read("model.weights.h5"))
        except (zipfile.BadZipFile, KeyError, ValueError, OSError):
            return InputSpec(None, None)  # read() says what is wrong with it
        return _of_layers(config, constants)
    try:
        with h5py.File(path, "r") as file:
            if _CONTRACT in file.attrs:
                said = json.loads(file.attrs[_CONTRACT])
                return InputSpec(
                    parse(said["preprocessing"]),
                    Normalization(tuple(said["mean"]), tuple(said["std"])),
                )
            return _of_layers(json.loads(file.attrs.get("model_config", "{}")))
    except OSError:
        return InputSpec(None, None)


def _constants(content):
    """(mean, variance) that a .keras file's weights hold for its ``normalization`` layer, or
    Nones.
    """
    with h5py.File(io.BytesIO(content), "r") as file:
        place = file.get("layers/normalization/vars", {})
        return tuple(np.array(place[key]) if key in place else None for key in "01")


def _of_layers(config, constants=(None, None)):
    """The input_spec in a model's configuration, however deep its layers are nested; `constants` are
    those that its weights hold for a ``normalization`` that has none in its configuration.

    keras.applications' networks have a ``rescaling`` in front of their ``normalization``, or alone:
    pixel * scale + offset. (Its V1 networks with ImageNet's weights have a second one behind; those
    are normalised as the variant says.)
    """
    preprocessing, centered, rescaled = None, [], []
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            name = item.get("name") or ""
            if isinstance(name, str):
                preprocessing = parse(name) or preprocessing
                if _constant(name) and "mean" in item:
                    centered.append((item.get("mean"), item.get("variance")))
                elif name.split("_")[0] == "rescaling" and "scale" in item:
                    rescaled.append((item.get("scale"), item.get("offset")))
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    if rescaled and centered == [(None, None)]:
        centered = [constants]
    return InputSpec(preprocessing, _composed(centered, rescaled))


def _composed(centered, rescaled):
    """The ``Normalization`` in pixels of what a model's first layers say; None where that is
    nothing, or in their weights.
    """
    if len(centered) > 1 or len(rescaled) > 1 or not (centered or rescaled):
        return None
    mean, variance = centered[0] if centered else ((0.0,) * 3, (1.0,) * 3)
    scale, offset = rescaled[0] if rescaled else (1.0, 0.0)
    if mean is None or variance is None or np.ndim(scale) or np.ndim(offset) or not scale:
        return None
    mean, variance = np.ravel(mean), np.ravel(variance)
    if len(mean) != 3:
        return None
    return Normalization(
        tuple(round(float(m - offset) / scale, 6) for m in mean),
        tuple(round(float(v) ** 0.5 / scale, 6) for v in variance),
    )


def load(model, path):
    """Loads a file into a model as ``create_model`` does: as :func:`load_weights`, but a classifier
    of another class count and a stem of other channels are adapted.

    - A classifier of 1,001 or 21,843 classes gives its columns for ImageNet's 1,000 to a model of
      1,000 classes; where the counts differ otherwise, or the file has none, the model keeps its
      random one, and a ``UserWarning`` says so. A model without one leaves it in the file.
    - A stem for RGB gives a model of one channel the sum over RGB, and of n channels the RGB
      kernels in turn, times 3 / n (as timm does): grey images then excite it as before.
    """
    stored = read(path, model)
    adapted = _adapt_head(model, _adapt_stem(model, stored), path)
    assign(model, adapted, path)


def load_weights(model, path):
    """Loads a ``.keras``, ``.weights.h5`` or legacy ``.h5`` file into a model, by layer name.

    Raises ``ValueError`` that names every layer which is missing, left over or of another shape;
    the model keeps its weights then. Normalisation constants in a file are ignored: they are data
    of the model, not weights.
    """
    assign(model, read(path, model), path)


def assign(model, stored, source):
    """Sets a model's weights from {layer name: arrays}, all or none; `source` is named in errors.

    Raises ``ValueError`` that names every layer which is missing, left over or of another shape.
    """
    problems = _differences(model, stored)
    if problems:
        raise ValueError(
            f"{source} does not fit {model.name}: {len(problems)} differences: "
            + "; ".join(problems)
        )
    for name, layer in _weighted(model).items():
        layer.set_weights(stored[name])


def _weighted(model):
    return {layer.name: layer for layer in model.layers if layer.weights}


def _differences(model, stored):
    wanted = _weighted(model)
    problems = [f"{name} is missing" for name in wanted if name not in stored]
    problems += [f"{name} is left over" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        have = [tuple(a.shape) for a in stored[name]]
        want = [tuple(w.shape) for w in wanted[name].weights]
        if have != want:
            problems.append(f"{name} has shapes {have}, not {want}")
    return sorted(problems)


def _adapt_head(model, stored, path):
    head = _weighted(model).get("predictions")
    have = stored.get("predictions")
    rest = {name: arrays for name, arrays in stored.items() if name != "predictions"}
    if head is None:
        return rest
    want = [tuple(w.shape) for w in head.weights]
    if have is not None and [a.shape for a in have] == want:
        return stored
    if have is not None and have[0].shape[:1] != want[0][:1]:
        return stored  # another network's: assign() says so
    classes = want[0][1]
    index = label_map(have[0].shape[1]) if have is not None and classes == 1000 else None
    if index is not None:
        _LOG.info("%s: %d of its classes are ImageNet's 1,000", path, have[0].shape[1])
        return {**rest, "predictions": _columns(have, index)}
    if not _differences(model, {**stored, "predictions": head.get_weights()}):
        why = "has no classifier" if have is None else f"has {have[0].shape[1]} classes"
        warnings.warn(
            f"{path} {why}: the classifier of {classes} classes starts at random, so train it "
            "before you use it",
            UserWarning,
            stacklevel=4,
        )
        return {**rest, "predictions": head.get_weights()}
    return stored


def _columns(head, index):
    """A classifier of the given columns; one that is -1 never wins."""
    kernel, bias = head
    index = np.array(index)
    absent = index < 0
    kernel, bias = kernel[:, index], bias[index]
    kernel[:, absent] = 0
    bias[absent] = bias[~absent].min() - 10
    return [kernel, bias]


def _adapt_stem(model, stored):
    stem = _weighted(model).get("stem_conv")
    have = stored.get("stem_conv")
    if stem is None or have is None or have[0].ndim != 4:
        return stored
    kernel = have[0]
    channels = tuple(stem.weights[0].shape)[2]
    if kernel.shape[2] != 3 or channels == 3:
        return stored
    if channels == 1:
        adapted = kernel.sum(axis=2, keepdims=True)
    else:
        adapted = kernel[:, :, np.arange(channels) % 3] * (3 / channels)
    _LOG.info("%s: its stem takes %d channels, made of RGB's", model.name, channels)
    return {**stored, "stem_conv": [adapted.astype(kernel.dtype), *have[1:]]}


def write(path, stored, input_spec):
    """Writes {layer name: arrays} as an ``.h5`` file of keras.applications' layout, with the
    :class:`InputSpec` of its images.
    """
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in stored]
        file.attrs["backend"] = b"keras_effnet"
        file.attrs[_CONTRACT] = json.dumps(
            {
                "preprocessing": input_spec.preprocessing.layer_name,
                "mean": input_spec.normalization.mean,
                "std": input_spec.normalization.std,
            }
        )
        for name, arrays in stored.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"%d" % i for i in range(len(arrays))]
            for i, array in enumerate(arrays):
                group.create_dataset(str(i), data=array)


def read(path, model):
    """{layer name: arrays} of a file, without normalisation constants; `model` names the layers
    where the file does not.

    Raises ``ValueError`` for a file that is truncated or of another format.
    """
    path = os.fspath(path)
    if not path.endswith(_ENDINGS):
        raise ValueError(
            f"{path} does not end in {', '.join(_ENDINGS)}. Checkpoints of other projects are "
            "converted first: effnet port --help"
        )
    if path.endswith(".keras"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a .keras file (truncated, or of another format)")
        import keras  # here: the tables of weights are read without a framework

        try:
            source = keras.saving.load_model(path, compile=False)  # safe mode: no code is run
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read as a .keras file: {error}") from error
        return {
            layer.name: layer.get_weights()
            for layer in source.layers
            if layer.weights and not _constant(layer.name)
        }
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
                return _read_numbered(root.get("layers", {}), model)
            return _read_named(root)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged, or of another format: {error}") from error


def _read_named(root):
    """The legacy layout: a group a layer, its arrays in the order of an attribute."""
    stored = {}
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        arrays = [group[_text(w)][()] for w in group.attrs["weight_names"]]
        if arrays and not _constant(name):
            stored[name] = arrays
    return stored


# What Keras calls a class's layers in a ".weights.h5".
_NUMBERED = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}


def _read_numbered(groups, model):
    """A ".weights.h5" numbers each class's layers in the model's order: conv2d, conv2d_1, ..."""
    seen = collections.Counter()
    names = {}
    for layer in model.layers:
        kind = _NUMBERED.get(type(layer).__name__)
        if kind:
            names[f"{kind}_{seen[kind]}" if seen[kind] else kind] = layer.name
            seen[kind] += 1
    stored = {}
    for key, group in groups.items():
        variables = group.get("vars", {})
        if len(variables) and not _constant(key):
            stored[names.get(key, key)] = [variables[str(i)][()] for i in range(len(variables))]
    return stored


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _constant(layer_name):
    return layer_name.split("_")[0] == "normalization"
