"""Weights: the released files as rows, and loading of any file into a model, by layer name, every
shape checked.
"""

import collections
import os
import zipfile
from dataclasses import dataclass

import h5py
import keras

from keras_effnet.variants import unknown


@dataclass(frozen=True)
class WeightSet:
    """The two files of one released weight set; md5 as the publisher gives it."""

    url: str  # without ".h5" or "_notop.h5"
    top_md5: str
    notop_md5: str


_V1 = "https://storage.googleapis.com/keras-applications/"
_V2 = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"

# md5 of the file with the classifier and of the one without, from
# keras/src/applications/efficientnet{,_v2}.py of Keras 3.15.
_V1_MD5 = {
    "efficientnet-b0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet-b1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet-b2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet-b3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),
    "efficientnet-b4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet-b5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet-b6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet-b7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
}
_V2_MD5 = {
    "efficientnetv2-b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2-b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnetv2-b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnetv2-b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2-s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2-m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2-l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
}

# (variant, set) -> files. "imagenet" is keras.applications' set: V1 trained with AutoAugment, V2
# from scratch, both on ImageNet-1k alone.
WEIGHT_SETS = {
    **{(v, "imagenet"): WeightSet(_V1 + v.replace("-", ""), *md5) for v, md5 in _V1_MD5.items()},
    **{(v, "imagenet"): WeightSet(_V2 + v, *md5) for v, md5 in _V2_MD5.items()},
}


def find_weights(variant, weights, *, include_top, classes):
    """The path of a weights file: None stays None, a set is downloaded, a path must exist.

    Raises ``ValueError`` for an unknown set, a set whose classifier has another width, or a path
    that is not there.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights {weights!r} is neither None, nor a set's name, nor a path")
    weights = os.fspath(weights)
    row = WEIGHT_SETS.get((variant, weights))
    if row is None:
        if os.path.isfile(weights):
            return weights
        sets = [s for v, s in WEIGHT_SETS if v == variant]
        known = unknown("weights", weights, sets) if sets else f"Unknown weights {weights!r}."
        raise ValueError(
            f"{known} ({variant} has {len(sets)} released sets here, and no file has that name.) "
            "Give weights=None for random weights, or a path: .keras, .weights.h5 or .h5"
        )
    if include_top and classes != 1000:
        raise ValueError(
            f"weights={weights!r} has 1000 classes and classes={classes} was asked for: build with "
            "include_top=False and put a classifier of your own on top, or take weights=None"
        )
    suffix, md5 = (".h5", row.top_md5) if include_top else ("_notop.h5", row.notop_md5)
    return keras.utils.get_file(
        os.path.basename(row.url) + suffix, row.url + suffix, cache_subdir="models", file_hash=md5
    )


def load_weights(model, path):
    """Loads a ``.keras``, ``.weights.h5`` or legacy ``.h5`` file into a model, by layer name.

    Raises ``ValueError`` that names every layer which is missing, left over or of another shape;
    the model keeps its weights then. Normalisation constants in a file are ignored: they are data
    of the model, not weights.
    """
    path = os.fspath(path)
    stored = _read(path, model)
    wanted = {layer.name: layer for layer in model.layers if layer.weights}
    problems = [f"{name} is missing" for name in wanted if name not in stored]
    problems += [f"{name} is left over" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        have, want = [a.shape for a in stored[name]], [tuple(w.shape) for w in wanted[name].weights]
        if have != want:
            problems.append(f"{name} has shapes {have}, not {want}")
    if problems:
        raise ValueError(
            f"{path} does not fit {model.name}: {len(problems)} differences: "
            + "; ".join(sorted(problems))
        )
    for name, layer in wanted.items():
        layer.set_weights(stored[name])


def _read(path, model):
    """{layer name: arrays} of a file; `model` names the layers where the file does not."""
    if path.endswith(".keras"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a .keras file (truncated, or of another format)")
        source = keras.saving.load_model(path, compile=False)
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
        if "layer_names" not in root.attrs:
            return _read_numbered(root.get("layers", {}), model)
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
