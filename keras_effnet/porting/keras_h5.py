"""Keras ``.h5`` files of qubvel/efficientnet and of leondgarse's keras_efficientnet_v2 and kecam.

Names from qubvel/efficientnet efficientnet/model.py and leondgarse/keras_efficientnet_v2
keras_efficientnet_v2/efficientnet_v2.py; the arrays are Keras's, in Keras's order.
"""

import types

from keras_effnet.pretrained.layer_names import Names, check, parts
from keras_effnet.variants import VARIANTS

# fmt: off
_OURS = {role: role for role in (
    "expand_conv", "expand_bn", "dwconv", "bn", "se_reduce", "se_expand", "project_conv",
    "project_bn",
)}
QUBVEL = Names(
    ends={
        "stem_conv": "stem_conv", "stem_bn": "stem_bn", "top_conv": "top_conv", "top_bn": "top_bn",
        "predictions": "probs",
    },
    block="{name}_",
    mbconv=_OURS,
    mbconv_plain=_OURS,
    fused={},  # V1 alone
    fused_plain={},
)
LEONDGARSE = Names(
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


def read(path, plan, names, *, include_top=True):
    """{our layer's name: its arrays, in the order of ``layer.weights``} of an ``.h5`` file, weights
    alone or a whole model.

    `names` is :data:`QUBVEL` or :data:`LEONDGARSE`. Without `include_top` a classifier in the file
    is passed over. Raises ``ValueError`` that names every layer which is missing or left over.
    """
    from keras_effnet.pretrained import files

    nothing = types.SimpleNamespace(name=plan.name, layers=[])  # these files name their layers
    stored = files.read(path, nothing)
    wanted = {part.theirs: part.layer for part in parts(plan, names, include_top=include_top)}
    passed = names.ends["predictions"] if not include_top else None
    check(
        path,
        plan,
        [name for name in wanted if name not in stored],
        [name for name in stored if name not in wanted and name != passed],
    )
    return {layer: stored[name] for name, layer in wanted.items()}
