"""The networks of timm and torchvision, both ways: their names, and how their variants differ.

Names are from timm 1.0.31 (timm/models/{efficientnet,_efficientnet_blocks}.py) and
torchvision 0.28 (torchvision/models/efficientnet.py).
"""

from dataclasses import replace

import numpy as np

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.porting.state_dicts import read_state
from keras_effnet.pretrained.layer_names import Names, check, parts
from keras_effnet.variants import VARIANTS, Normalization

# fmt: off
TIMM = Names(
    ends={
        "stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2",
        "predictions": "classifier",
    },
    block="blocks.{stage}.{position}.",
    #              ours            InvertedResidual       DepthwiseSeparable
    mbconv=      {"expand_conv":  "conv_pw",
                  "expand_bn":    "bn1",
                  "dwconv":       "conv_dw",
                  "bn":           "bn2",
                  "se_reduce":    "se.conv_reduce",
                  "se_expand":    "se.conv_expand",
                  "project_conv": "conv_pwl",
                  "project_bn":   "bn3"},
    mbconv_plain={"dwconv":                              "conv_dw",
                  "bn":                                  "bn1",
                  "se_reduce":                           "se.conv_reduce",
                  "se_expand":                           "se.conv_expand",
                  "project_conv":                        "conv_pw",
                  "project_bn":                          "bn2"},
    #              ours            EdgeResidual           ConvBnAct
    fused=       {"expand_conv":  "conv_exp",
                  "expand_bn":    "bn1",
                  "project_conv": "conv_pwl",
                  "project_bn":   "bn2"},
    fused_plain= {"project_conv":                        "conv",
                  "project_bn":                          "bn1"},
    outputs={"stem": "bn1", "top": "bn2"},  # timm's batch norms hold the activation
)
TORCHVISION = Names(
    ends={
        "stem_conv": "features.0.0", "stem_bn": "features.0.1",
        "top_conv": "features.{last}.0", "top_bn": "features.{last}.1",
        "predictions": "classifier.1",
    },
    block="features.{stage1}.{position}.",
    #              ours            MBConv expands         does not
    mbconv=      {"expand_conv":  "block.0.0",
                  "expand_bn":    "block.0.1",
                  "dwconv":       "block.1.0",
                  "bn":           "block.1.1",
                  "se_reduce":    "block.2.fc1",
                  "se_expand":    "block.2.fc2",
                  "project_conv": "block.3.0",
                  "project_bn":   "block.3.1"},
    mbconv_plain={"dwconv":                              "block.0.0",
                  "bn":                                  "block.0.1",
                  "se_reduce":                           "block.1.fc1",
                  "se_expand":                           "block.1.fc2",
                  "project_conv":                        "block.2.0",
                  "project_bn":                          "block.2.1"},
    #              ours            FusedMBConv expands    does not
    fused=       {"expand_conv":  "block.0.0",
                  "expand_bn":    "block.0.1",
                  "project_conv": "block.1.0",
                  "project_bn":   "block.1.1"},
    fused_plain= {"project_conv":                        "block.0.0",
                  "project_bn":                          "block.0.1"},
    outputs={"stem": "features.0", "top": "features.{last}"},
)

# Each kind of layer in the order of ours: PyTorch's name, and how its axes become ours.
_VARIABLES = {
    "conv":        (("weight", (2, 3, 1, 0)),),
    "biased conv": (("weight", (2, 3, 1, 0)), ("bias", (0,))),
    "depthwise":   (("weight", (2, 3, 0, 1)),),
    "batch_norm":  (("weight", (0,)), ("bias", (0,)),
                    ("running_mean", (0,)), ("running_var", (0,))),
    "dense":       (("weight", (1, 0)), ("bias", (0,))),
}
# fmt: on
_COUNTER = "num_batches_tracked"  # of every batch norm; says nothing about an answer

_IMAGENET = VARIANTS["efficientnet-b0"].normalization
HALF = Normalization((127.5,) * 3, (127.5,) * 3)  # mean 0.5 and std 0.5 of pixels in [0, 1]

# timm has most networks twice: tf_* with Google's weights, epsilon and padding, and natively with
# PyTorch's. The normalization is that of timm's default weights; a config.json beside the file or
# the caller of `port` may state another. None: timm does not have the network.
# fmt: off
_TIMM = (
    # ours                  tf_*       native
    ("efficientnet-b0",    _IMAGENET, _IMAGENET),
    ("efficientnet-b1",    _IMAGENET, HALF),
    ("efficientnet-b2",    _IMAGENET, _IMAGENET),
    ("efficientnet-b3",    _IMAGENET, _IMAGENET),
    ("efficientnet-b4",    _IMAGENET, _IMAGENET),
    ("efficientnet-b5",    _IMAGENET, _IMAGENET),
    ("efficientnet-b6",    _IMAGENET, _IMAGENET),
    ("efficientnet-b7",    _IMAGENET, _IMAGENET),
    ("efficientnet-b8",    HALF,      _IMAGENET),
    ("efficientnet-l2",    _IMAGENET, _IMAGENET),
    ("efficientnet-lite0", HALF,      _IMAGENET),
    ("efficientnet-lite1", HALF,      _IMAGENET),
    ("efficientnet-lite2", HALF,      _IMAGENET),
    ("efficientnet-lite3", HALF,      _IMAGENET),
    ("efficientnet-lite4", HALF,      _IMAGENET),
    ("efficientnetv2-b0",  _IMAGENET, None),
    ("efficientnetv2-b1",  _IMAGENET, None),
    ("efficientnetv2-b2",  _IMAGENET, None),
    ("efficientnetv2-b3",  HALF,      None),
    ("efficientnetv2-s",   HALF,      _IMAGENET),
    ("efficientnetv2-m",   HALF,      _IMAGENET),
    ("efficientnetv2-l",   HALF,      _IMAGENET),
    ("efficientnetv2-xl",  HALF,      _IMAGENET),
)
# fmt: on
# timm's name -> our variant
TIMM_VARIANTS = {
    **{
        "tf_" + name.replace("-", "_"): replace(VARIANTS[name], normalization=normalization)
        for name, normalization, _ in _TIMM
    },
    **{
        name.replace("-", "_"): replace(
            VARIANTS[name], bn_epsilon=1e-5, padding="symmetric", normalization=normalization
        )
        for name, _, normalization in _TIMM
        if normalization is not None
    },
}

# torchvision: PyTorch's padding everywhere, PyTorch's epsilon up to B4; what its weights
# (IMAGENET1K_V1, and _V2 of B1) expect of an image: resized to so many pixels, then cropped.
# fmt: off
_TORCHVISION = (
    # theirs               ours                epsilon normalisation size resize interpolation
    ("efficientnet_b0",   "efficientnet-b0",   1e-5,   _IMAGENET,    224, 256,   "bicubic"),
    ("efficientnet_b1",   "efficientnet-b1",   1e-5,   _IMAGENET,    240, 255,   "bilinear"),
    ("efficientnet_b2",   "efficientnet-b2",   1e-5,   _IMAGENET,    288, 288,   "bicubic"),
    ("efficientnet_b3",   "efficientnet-b3",   1e-5,   _IMAGENET,    300, 320,   "bicubic"),
    ("efficientnet_b4",   "efficientnet-b4",   1e-5,   _IMAGENET,    380, 384,   "bicubic"),
    ("efficientnet_b5",   "efficientnet-b5",   1e-3,   _IMAGENET,    456, 456,   "bicubic"),
    ("efficientnet_b6",   "efficientnet-b6",   1e-3,   _IMAGENET,    528, 528,   "bicubic"),
    ("efficientnet_b7",   "efficientnet-b7",   1e-3,   _IMAGENET,    600, 600,   "bicubic"),
    ("efficientnet_v2_s", "efficientnetv2-s",  1e-3,   _IMAGENET,    384, 384,   "bilinear"),
    ("efficientnet_v2_m", "efficientnetv2-m",  1e-3,   _IMAGENET,    480, 480,   "bilinear"),
    ("efficientnet_v2_l", "efficientnetv2-l",  1e-3,   HALF,         480, 480,   "bicubic"),
)
# fmt: on
TORCHVISION_VARIANTS = {
    theirs: replace(
        VARIANTS[ours],
        bn_epsilon=epsilon,
        padding="symmetric",
        normalization=normalization,
        image_size=size,
    )
    for theirs, ours, epsilon, normalization, size, _, _ in _TORCHVISION
}
TORCHVISION_PREPROCESSING = {
    theirs: Preprocessing(size, size / resize, interpolation)
    for theirs, _, _, _, size, resize, interpolation in _TORCHVISION
}


def read(path, plan, names, *, include_top=True):
    """{our layer's name: its arrays, in the order of ``layer.weights``} of a state dict in a
    ``.safetensors`` or ``.pth`` file.

    `names` is :data:`TIMM` or :data:`TORCHVISION`. Without `include_top` a classifier in the file
    is passed over. Raises ``ValueError`` that names every tensor which is missing or left over.
    """
    state = read_state(path)
    wanted = {
        f"{part.theirs}.{variable}": (part, axes)
        for part in parts(plan, names, include_top=include_top)
        for variable, axes in _VARIABLES[part.kind]
    }
    passed = names.ends["predictions"] + "." if not include_top else None
    extra = [
        name
        for name in state
        if name not in wanted
        and not name.endswith("." + _COUNTER)
        and not (passed and name.startswith(passed))
    ]
    check(path, plan, [name for name in wanted if name not in state], extra)
    stored = {}
    for name, (part, axes) in wanted.items():
        if state[name].ndim != len(axes):
            raise ValueError(
                f"{path}: {name} has shape {state[name].shape}, not {len(axes)} dimensions"
            )
        stored.setdefault(part.layer, []).append(state[name].transpose(axes))
    return stored


def write(model, path, plan, names):
    """Writes a Keras model of `plan` as a ``.safetensors`` state dict that timm's or torchvision's
    ``load_state_dict`` takes (strictly).

    The caller answers for the plan's epsilon and padding: see ``porting.export``.
    """
    from safetensors.numpy import save_file

    state = {}
    include_top = any(layer.name == "predictions" for layer in model.layers)
    for part in parts(plan, names, include_top=include_top):
        for (variable, axes), array in zip(
            _VARIABLES[part.kind], model.get_layer(part.layer).get_weights()
        ):
            array = array.astype("float32").transpose(np.argsort(axes))
            state[f"{part.theirs}.{variable}"] = np.ascontiguousarray(array)
        if part.kind == "batch_norm":
            state[f"{part.theirs}.{_COUNTER}"] = np.zeros((), "int64")
    save_file(state, path, metadata={"format": "pt"})
