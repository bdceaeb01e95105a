"""Reads Google's TensorFlow checkpoints: V1 and Lite (tensorflow/tpu), V2 (google/automl).

Names are those of the official code's graphs (efficientnet_model.py, effnetv2_model.py). TensorFlow
is imported only when a checkpoint is read.
"""

from __future__ import annotations

import glob
import os
import re

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.pretrained.layer_names import LayerNames, check_names, weighted_layers
from keras_effnet.variants import VARIANTS

# fmt: off
NAMES = LayerNames(
    ends={
        "stem_conv": "stem/conv2d", "stem_bn": "stem/tpu_batch_normalization",
        "top_conv": "head/conv2d", "top_bn": "head/tpu_batch_normalization",
        "predictions": "head/dense",
    },
    block="blocks_{index}/",
    #              ours            expands                     does not
    mbconv=      {"expand_conv":  "conv2d",
                  "expand_bn":    "tpu_batch_normalization",
                  "dwconv":       "depthwise_conv2d",
                  "bn":           "tpu_batch_normalization_1",
                  "se_reduce":    "se/conv2d",
                  "se_expand":    "se/conv2d_1",
                  "project_conv": "conv2d_1",
                  "project_bn":   "tpu_batch_normalization_2"},
    mbconv_plain={"dwconv":                                   "depthwise_conv2d",
                  "bn":                                       "tpu_batch_normalization",
                  "se_reduce":                                "se/conv2d",
                  "se_expand":                                "se/conv2d_1",
                  "project_conv":                             "conv2d",
                  "project_bn":                               "tpu_batch_normalization_1"},
    fused=       {"expand_conv":  "conv2d",
                  "expand_bn":    "tpu_batch_normalization",
                  "project_conv": "conv2d_1",
                  "project_bn":   "tpu_batch_normalization_1"},
    fused_plain= {"project_conv":                             "conv2d",
                  "project_bn":                               "tpu_batch_normalization"},
)
# The variables of each kind of layer, in the order of our weights; the axes are the same.
_VARIABLES = {
    "conv":        ("kernel",),
    "biased conv": ("kernel", "bias"),
    "depthwise":   ("depthwise_kernel",),
    "batch_norm":  ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense":       ("kernel", "bias"),
}
# fmt: on
# The networks that Google released checkpoints or code of.
CHECKPOINT_VARIANTS = {
    name: VARIANTS[name]
    for name in (
        *(
            f"efficientnet-{size}"
            for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8")
        ),
        *(f"efficientnet-{size}" for size in ("l2", "lite0", "lite1", "lite2", "lite3", "lite4")),
        *(f"efficientnetv2-{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")),
    )
}

_AVERAGE = "/ExponentialMovingAverage"
# Training state beside the weights: step counters and optimizer slots.
_IGNORED = re.compile(
    r"global_step|local_step|beta[12]_power|.+/(RMSProp|Momentum|Adam)(_\d+)?(/.*)?"
)


def read(
    path: str | os.PathLike[str], plan: Plan, *, include_top: bool = True
) -> dict[str, list[np.ndarray]]:
    """{our layer's name: arrays, in the order of ``layer.weights``} of a checkpoint.

    `path` is a prefix ("model.ckpt"), its ``.index`` file, or a folder with one checkpoint. The
    exponential moving average of a variable is preferred. Without `include_top` the classifier is
    skipped. Raises ``ValueError`` for a file that is not a checkpoint, and one that names every
    missing or left-over variable.
    """
    import tensorflow as tf

    prefix = find_prefix(path)
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = _by_canonical_name(prefix, reader.get_variable_to_shape_map())
        layer_of = {
            f"{layer.source_name}/{variable}": layer.name
            for layer in weighted_layers(plan, NAMES, include_top=include_top)
            for variable in _VARIABLES[layer.kind]
        }
        skipped = () if include_top else ("head/dense/kernel", "head/dense/bias")
        check_names(
            prefix,
            plan,
            [name for name in layer_of if name not in names],
            [actual for name, actual in names.items() if name not in (*layer_of, *skipped)],
        )
        weights = {}
        for name, layer in layer_of.items():
            weights.setdefault(layer, []).append(reader.get_tensor(names[name]))
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{prefix} is not a complete TensorFlow checkpoint (truncated, or of another format): "
            f"{error}"
        ) from error
    return weights


def find_prefix(path: str | os.PathLike[str]) -> str:
    """The common prefix of a checkpoint's files, as TensorFlow names a checkpoint.

    `path` may be the prefix, the ``.index`` file, a data file, or a folder with one checkpoint.
    Raises ``ValueError`` if there is none, or more than one.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        indices = sorted(glob.glob(os.path.join(glob.escape(path), "*.index")))
        if not indices:
            raise ValueError(f"{path} holds no checkpoint: there is no .index file in it")
        if len(indices) > 1:
            names = ", ".join(os.path.basename(index) for index in indices)
            raise ValueError(f"{path} holds {len(indices)} checkpoints ({names}): name one of them")
        path = indices[0]
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    if not os.path.isfile(prefix + ".index"):
        raise ValueError(f"{path} is not a TensorFlow checkpoint: there is no {prefix}.index")
    return prefix


def _by_canonical_name(prefix, names):
    """{name without the network's scope: stored name of its moving average, or of itself}."""
    names = [name for name in names if not _IGNORED.fullmatch(name)]
    scopes = {name.split("/")[0] for name in names if name.endswith("/stem/conv2d/kernel")}
    if len(scopes) != 1:
        raise ValueError(
            f"{prefix} is not a checkpoint of Google's EfficientNet code: it has {len(scopes)} "
            f"variables SCOPE/stem/conv2d/kernel among {len(names)}, not one"
        )
    (scope,) = scopes
    stored_names = {}
    for name in sorted(names, key=len):  # a variable comes before its average, which replaces it
        canonical = name[: -len(_AVERAGE)] if name.endswith(_AVERAGE) else name
        if canonical.startswith(scope + "/"):
            canonical = canonical[len(scope) + 1 :]
        # TensorFlow's uniquifying renamed the head's scope in some checkpoints
        stored_names[re.sub(r"^head_1/", "head/", canonical)] = name
    return stored_names
