"""Reads Keras ``.h5`` files of qubvel/efficientnet, keras_efficientnet_v2 and kecam.

The latter two are leondgarse's. Names are from qubvel/efficientnet efficientnet/model.py and
leondgarse/keras_efficientnet_v2 keras_efficientnet_v2/efficientnet_v2.py; arrays and their order
are Keras's.
"""

from __future__ import annotations

import os

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.pretrained.layer_names import LayerNames, check_names, weighted_layers
from keras_effnet.variants import VARIANTS

# fmt: off
_OURS = {role: role for role in (
    "expand_conv", "expand_bn", "dwconv", "bn", "se_reduce", "se_expand", "project_conv",
    "project_bn",
)}
QUBVEL = LayerNames(
    ends={
        "stem_conv": "stem_conv", "stem_bn": "stem_bn", "top_conv": "top_conv", "top_bn": "top_bn",
        "predictions": "probs",
    },
    block="{name}_",
    mbconv=_OURS,
    mbconv_plain=_OURS,
    fused={},  # V1 only
    fused_plain={},
)
LEONDGARSE = LayerNames(
    ends={
        "stem_conv": "stem_conv", "stem_bn": "stem_bn", "top_conv": "post_conv",
        "top_bn": "post_bn", "predictions": "predictions",
    },
    block="stack_{stage}_block{position}_",
    #              ours            expands         does not
    mbconv=      {"expand_conv":  "sortcut_conv",
                  "expand_bn":    "sortcut_bn",
                  "dwconv":       "MB_dw_",
                  "bn":           "MB_dw_bn",
                  "se_reduce":    "se_1_conv",
                  "se_expand":    "se_2_conv",
                  "project_conv": "MB_pw_conv",
                  "project_bn":   "MB_pw_bn"},
    mbconv_plain={"dwconv":                       "MB_dw_",
                  "bn":                           "MB_dw_bn",
                  "se_reduce":                    "se_1_conv",
                  "se_expand":                    "se_2_conv",
                  "project_conv":                 "MB_pw_conv",
                  "project_bn":                   "MB_pw_bn"},
    fused=       {"expand_conv":  "sortcut_conv",
                  "expand_bn":    "sortcut_bn",
                  "project_conv": "MB_pw_conv",
                  "project_bn":   "MB_pw_bn"},
    fused_plain= {"project_conv":                 "fu_conv",
                  "project_bn":                   "fu_bn"},
)
# fmt: on

_V1 = tuple(f"efficientnet-b{i}" for i in range(8))
_V2 = ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")
QUBVEL_VARIANTS = {name: VARIANTS[name] for name in (*_V1, "efficientnet-l2")}
LEONDGARSE_VARIANTS = {
    name: VARIANTS[name]
    for name in (*_V1, "efficientnet-l2", *(f"efficientnetv2-{size}" for size in _V2))
}


def read(
    path: str | os.PathLike[str], plan: Plan, names: LayerNames, *, include_top: bool = True
) -> dict[str, list[np.ndarray]]:
    """{our layer's name: arrays, in the order of ``layer.weights``} of an ``.h5`` file.

    The file holds weights or a whole model. `names` is :data:`QUBVEL` or :data:`LEONDGARSE`.
    Without `include_top` a classifier in the file is skipped. Raises ``ValueError`` that names
    every missing or left-over layer.
    """
    from keras_effnet.pretrained.files import read_weights

    weights = read_weights(path)
    layers = weighted_layers(plan, names, include_top=include_top)
    our_name = {layer.source_name: layer.name for layer in layers}
    skipped = None if include_top else names.ends["predictions"]
    check_names(
        path,
        plan,
        [name for name in our_name if name not in weights],
        [name for name in weights if name not in our_name and name != skipped],
    )
    return {layer: weights[name] for name, layer in our_name.items()}
