"""Google's released TensorFlow checkpoints: V1 and Lite (tensorflow/tpu), V2 (google/automl).

Names are those of the official code's graphs (efficientnet_model.py, effnetv2_model.py). This is
the only module of keras_effnet that imports TensorFlow, and only when a checkpoint is read.
"""

import glob
import os
import re

from keras_effnet.pretrained.layer_names import Names, check, parts
from keras_effnet.variants import VARIANTS

# fmt: off
NAMES = Names(
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
# Each kind of layer in the order of ours; the axes are ours already.
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
# What a training keeps beside the weights: steps, and the optimisers' slots.
_IGNORED = re.compile(
    r"global_step|local_step|beta[12]_power|.+/(RMSProp|Momentum|Adam)(_\d+)?(/.*)?"
)


def read(path, plan, *, include_top=True):
    """{our layer's name: its arrays, in the order of ``layer.weights``} of a checkpoint.

    `path` is a prefix ("model.ckpt"), its ``.index`` file, or a folder with one checkpoint. Of
    every variable the moving average is taken where there is one. Without `include_top` the
    classifier is passed over. Raises ``ValueError`` for what is no checkpoint, and one that names
    every variable which is missing or left over.
    """
    import tensorflow as tf

    prefix = find_prefix(path)
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = _by_canonical_name(prefix, reader.get_variable_to_shape_map())
        wanted = {
            f"{part.theirs}/{variable}": part.layer
            for part in parts(plan, NAMES, include_top=include_top)
            for variable in _VARIABLES[part.kind]
        }
        passed = () if include_top else ("head/dense/kernel", "head/dense/bias")
        check(
            prefix,
            plan,
            [name for name in wanted if name not in names],
            [actual for name, actual in names.items() if name not in (*wanted, *passed)],
        )
        stored = {}
        for name, layer in wanted.items():
            stored.setdefault(layer, []).append(reader.get_tensor(names[name]))
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{prefix} is not a whole TensorFlow checkpoint (truncated, or of another format): "
            f"{error}"
        ) from error
    return stored


def find_prefix(path):
    """What TensorFlow calls a checkpoint: the files' common beginning. `path` may be that, the
    ``.index`` file or any of the data files, or a folder that holds exactly one checkpoint.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        found = sorted(glob.glob(os.path.join(glob.escape(path), "*.index")))
        if len(found) != 1:
            names = ", ".join(os.path.basename(f) for f in found) or "none"
            raise ValueError(
                f"{path} holds {len(found)} checkpoints ({names}): name one of them"
                if found
                else f"{path} holds no checkpoint: there is no .index file in it"
            )
        path = found[0]
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    if not os.path.isfile(prefix + ".index"):
        raise ValueError(f"{path} is not a TensorFlow checkpoint: there is no {prefix}.index")
    return prefix


def _by_canonical_name(prefix, names):
    """{name without the network's scope: the stored name of its average, or of itself}."""
    names = [name for name in names if not _IGNORED.fullmatch(name)]
    scopes = {name.split("/")[0] for name in names if name.endswith("/stem/conv2d/kernel")}
    if len(scopes) != 1:
        raise ValueError(
            f"{prefix} is not a checkpoint of Google's EfficientNet code: it has {len(scopes)} "
            f"variables SCOPE/stem/conv2d/kernel among {len(names)}, not one"
        )
    (scope,) = scopes
    found = {}
    for name in sorted(names, key=len):  # a variable comes before its average, which replaces it
        canonical = name[: -len(_AVERAGE)] if name.endswith(_AVERAGE) else name
        if canonical.startswith(scope + "/"):
            canonical = canonical[len(scope) + 1 :]
        # a second head scope is an accident of the TensorFlow that wrote the checkpoint
        found[re.sub(r"^head_1/", "head/", canonical)] = name
    return found
