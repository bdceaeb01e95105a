"""The networks of timm, torchvision and lukemelas: names in their state dicts, and variants.

Names are from timm 1.0.31 (timm/models/{efficientnet,_efficientnet_blocks}.py) and
torchvision 0.28 (torchvision/models/efficientnet.py); lukemelas' are in :mod:`.package_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.pretrained.layer_names import LayerNames
from keras_effnet.pretrained.package_files import LUKEMELAS
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import VARIANTS, Normalization, Variant

# fmt: off
TIMM = LayerNames(
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
TORCHVISION = LayerNames(
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
# fmt: on

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

# torchvision uses PyTorch's padding everywhere, and PyTorch's epsilon up to B4. Its weights
# (IMAGENET1K_V1, and _V2 of B1) expect images resized to `resize` pixels, then cropped to `size`.
# fmt: off
_TORCHVISION = (
    # torchvision's        ours                epsilon normalization size resize interpolation
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
    name: replace(
        VARIANTS[ours],
        bn_epsilon=epsilon,
        padding="symmetric",
        normalization=normalization,
        image_size=size,
    )
    for name, ours, epsilon, normalization, size, _, _ in _TORCHVISION
}
TORCHVISION_PREPROCESSING = {
    name: Preprocessing(size, size / resize, interpolation)
    for name, _, _, _, size, resize, interpolation in _TORCHVISION
}


# lukemelas has Google's weights, epsilon and padding. B8 was released with AdvProp's weights only.
LUKEMELAS_VARIANTS = {
    **{name: VARIANTS[name] for name in (f"efficientnet-b{i}" for i in range(8))},
    "efficientnet-b8": replace(VARIANTS["efficientnet-b8"], normalization=HALF),
}
LITE_PYTORCH_VARIANTS = {
    name: VARIANTS[name] for name in (f"efficientnet-lite{i}" for i in range(5))
}


@dataclass(frozen=True)
class PyTorchProject:
    """A project whose files are state dicts."""

    name: str
    names: LayerNames
    variants: Mapping[str, Variant]  # the project's name of a network -> our variant
    # the project's name of a network -> preprocessing, where the project states it
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)


PYTORCH_PROJECTS = {
    row.name: row
    for row in (
        PyTorchProject("timm", TIMM, TIMM_VARIANTS),
        PyTorchProject("torchvision", TORCHVISION, TORCHVISION_VARIANTS, TORCHVISION_PREPROCESSING),
        PyTorchProject("lukemelas", LUKEMELAS, LUKEMELAS_VARIANTS),
        PyTorchProject("efficientnet-lite-pytorch", LUKEMELAS, LITE_PYTORCH_VARIANTS),
    )
}


def find_network(project: PyTorchProject, model: str) -> tuple[str, Variant]:
    """(the project's name, our ``Variant``) of a network, given by the project's name or ours.

    Raises ``ValueError`` for an unknown name, and for a name of ours that the project has twice:
    timm's ``tf_efficientnet_b0`` and ``efficientnet_b0`` have weights of the same shapes but give
    different outputs, so a file does not tell them apart.

    >>> find_network(PYTORCH_PROJECTS["torchvision"], "efficientnet-b0")[0]
    'efficientnet_b0'
    """
    if model in project.variants:
        return model, project.variants[model]
    matches = {name: v for name, v in project.variants.items() if v.name == model}
    if len(matches) == 1:
        return next(iter(matches.items()))
    if matches:
        choices = (
            f"{name!r} (epsilon {v.bn_epsilon:g}, {v.padding} padding)"
            for name, v in matches.items()
        )
        raise ValueError(
            f"{project.name} has {model} more than once, and a file does not state which it is: "
            f"give {' or '.join(choices)} as the model"
        )
    raise ValueError(unknown_name(f"model of {project.name}", model, project.variants))
