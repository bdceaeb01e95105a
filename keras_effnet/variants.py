"""The papers' tables: every EfficientNet, and two other networks to scale, one row each.

A row holds only what the papers and the official code state. Everything derived (block counts,
channel counts, drop rates, layer names) is computed by :mod:`keras_effnet.network_plan`. No Keras,
no TensorFlow.

Sources: EfficientNet (arXiv 1905.11946, tensorflow/tpu models/official/efficientnet),
EfficientNet-Lite (models/official/efficientnet/lite), EfficientNetV2 (arXiv 2104.00298,
google/automl efficientnetv2). Two other bases of compound scaling: MobileNetV2 (arXiv 1801.04381,
keras.applications) and ResNet-50 (arXiv 1512.03385, tensorflow/tpu models/official/resnet).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """Consecutive equal blocks before compound scaling.

    Only the first block has the stride and changes the number of channels.
    """

    op: str  # "mbconv" | "fused" | "bottleneck" (ResNet's)
    kernel_size: int
    stride: int
    expand_ratio: int  # of a bottleneck: its output filters relative to its spatial convolution's
    filters: int
    repeats: int
    se_ratio: float  # relative to the block's *input* filters; 0 for no squeeze-and-excitation


@dataclass(frozen=True)
class Family:
    """The properties that all variants of one generation share."""

    name: str
    activation: str
    bn_momentum: float
    # rounded filter counts below this share of the scaled count are raised by 8; 0 disables it
    round_limit: float
    fixed_ends: bool  # do not scale stem and head filters, nor first and last stage's repeats
    depthwise_name: str  # keras.applications' layer name
    head_grows_only: bool = False  # a width below 1 does not scale the head's filters
    stem_kernel_size: int = 3
    stem_pool: bool = False  # 3x3 max pooling of stride 2 after the stem's convolution


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per RGB channel, for pixels in [0, 255]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Evaluation:
    """How the official evaluation crops and resizes an image."""

    # The crop is size / (size + crop_padding) of the shorter side; None: no crop, the image is
    # stretched to a square.
    crop_padding: int | None
    interpolation: str  # "bilinear" | "bicubic"


@dataclass(frozen=True)
class Variant:
    """One network: its family, its unscaled stages, and the numbers that scale them."""

    name: str
    family: Family
    stages: tuple[Stage, ...]
    stem_filters: int
    width: float
    depth: float
    image_size: int  # pixels a side at evaluation
    dropout_rate: float  # before the classifier
    top1: float | None  # per cent on ImageNet-1k, trained on ImageNet-1k alone
    normalization: Normalization
    evaluation: Evaluation = Evaluation(None, "bilinear")
    head_filters: int = 1280  # of the convolution before the pooling; 0: there is none
    drop_path_rate: float = 0.2
    bn_epsilon: float = 1e-3
    padding: str = "same"  # or "symmetric", as in PyTorch: kernel_size // 2 on all sides


#                name    activation  bn     limit  fixed  depthwise
V1 = Family("v1", "swish", 0.99, 0.9, False, "dwconv")
V2 = Family("v2", "swish", 0.9, 0.0, False, "dwconv2")
LITE = Family("lite", "relu6", 0.99, 0.9, True, "dwconv")
MOBILENET_V2 = Family("mobilenetv2", "relu6", 0.999, 0.9, False, "dwconv", head_grows_only=True)
# Strides in the 3x3 convolutions, and padding as PyTorch's, as in tensorflow/tpu and torchvision.
RESNET = Family("resnet", "relu", 0.9, 0.9, False, "dwconv", stem_kernel_size=7, stem_pool=True)
FAMILIES = {family.name: family for family in (V1, V2, LITE, MOBILENET_V2, RESNET)}

_IMAGENET = Normalization(
    (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
)  # torch's mean and std, times 255
_C128 = Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))
_C127_5 = Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
_C127 = Normalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

_CROP = Evaluation(32, "bicubic")
_WHOLE = Evaluation(None, "bilinear")

# fmt: off
_V1 = (  #   op       k  s  e    c   n  se
    Stage("mbconv",   3, 1, 1,   16, 1, 0.25),
    Stage("mbconv",   3, 2, 6,   24, 2, 0.25),
    Stage("mbconv",   5, 2, 6,   40, 2, 0.25),
    Stage("mbconv",   3, 2, 6,   80, 3, 0.25),
    Stage("mbconv",   5, 1, 6,  112, 3, 0.25),
    Stage("mbconv",   5, 2, 6,  192, 4, 0.25),
    Stage("mbconv",   3, 1, 6,  320, 1, 0.25),
)
_LITE = tuple(replace(stage, se_ratio=0.0) for stage in _V1)
_V2_BASE = (
    Stage("fused",    3, 1, 1,   16, 1, 0.0),
    Stage("fused",    3, 2, 4,   32, 2, 0.0),
    Stage("fused",    3, 2, 4,   48, 2, 0.0),
    Stage("mbconv",   3, 2, 4,   96, 3, 0.25),
    Stage("mbconv",   3, 1, 6,  112, 5, 0.25),
    Stage("mbconv",   3, 2, 6,  192, 8, 0.25),
)
_V2_S = (
    Stage("fused",    3, 1, 1,   24,  2, 0.0),
    Stage("fused",    3, 2, 4,   48,  4, 0.0),
    Stage("fused",    3, 2, 4,   64,  4, 0.0),
    Stage("mbconv",   3, 2, 4,  128,  6, 0.25),
    Stage("mbconv",   3, 1, 6,  160,  9, 0.25),
    Stage("mbconv",   3, 2, 6,  256, 15, 0.25),
)
_V2_M = (
    Stage("fused",    3, 1, 1,   24,  3, 0.0),
    Stage("fused",    3, 2, 4,   48,  5, 0.0),
    Stage("fused",    3, 2, 4,   80,  5, 0.0),
    Stage("mbconv",   3, 2, 4,  160,  7, 0.25),
    Stage("mbconv",   3, 1, 6,  176, 14, 0.25),
    Stage("mbconv",   3, 2, 6,  304, 18, 0.25),
    Stage("mbconv",   3, 1, 6,  512,  5, 0.25),
)
_V2_L = (
    Stage("fused",    3, 1, 1,   32,  4, 0.0),
    Stage("fused",    3, 2, 4,   64,  7, 0.0),
    Stage("fused",    3, 2, 4,   96,  7, 0.0),
    Stage("mbconv",   3, 2, 4,  192, 10, 0.25),
    Stage("mbconv",   3, 1, 6,  224, 19, 0.25),
    Stage("mbconv",   3, 2, 6,  384, 25, 0.25),
    Stage("mbconv",   3, 1, 6,  640,  7, 0.25),
)
_V2_XL = (
    Stage("fused",    3, 1, 1,   32,  4, 0.0),
    Stage("fused",    3, 2, 4,   64,  8, 0.0),
    Stage("fused",    3, 2, 4,   96,  8, 0.0),
    Stage("mbconv",   3, 2, 4,  192, 16, 0.25),
    Stage("mbconv",   3, 1, 6,  256, 24, 0.25),
    Stage("mbconv",   3, 2, 6,  512, 32, 0.25),
    Stage("mbconv",   3, 1, 6,  640,  8, 0.25),
)

# Columns: name, family, stages, stem filters, width, depth, image size, dropout rate, top-1,
# normalization, evaluation. top-1 is for V1 the "AutoAugment" row of the official README (B8 and
# L2: nothing published without extra data or AdvProp), for Lite its README's float32 column, for V2
# google/automl's README, ImageNet-1k only (XL was released with ImageNet-21k pretraining only).
VARIANTS = {v.name: v for v in (
    Variant("efficientnet-b0",    V1,   _V1,      32, 1.0, 1.0, 224, 0.2, 77.1, _IMAGENET, _CROP),
    Variant("efficientnet-b1",    V1,   _V1,      32, 1.0, 1.1, 240, 0.2, 79.1, _IMAGENET, _CROP),
    Variant("efficientnet-b2",    V1,   _V1,      32, 1.1, 1.2, 260, 0.3, 80.1, _IMAGENET, _CROP),
    Variant("efficientnet-b3",    V1,   _V1,      32, 1.2, 1.4, 300, 0.3, 81.6, _IMAGENET, _CROP),
    Variant("efficientnet-b4",    V1,   _V1,      32, 1.4, 1.8, 380, 0.4, 82.9, _IMAGENET, _CROP),
    Variant("efficientnet-b5",    V1,   _V1,      32, 1.6, 2.2, 456, 0.4, 83.6, _IMAGENET, _CROP),
    Variant("efficientnet-b6",    V1,   _V1,      32, 1.8, 2.6, 528, 0.5, 84.0, _IMAGENET, _CROP),
    Variant("efficientnet-b7",    V1,   _V1,      32, 2.0, 3.1, 600, 0.5, 84.3, _IMAGENET, _CROP),
    Variant("efficientnet-b8",    V1,   _V1,      32, 2.2, 3.6, 672, 0.5, None, _IMAGENET, _CROP),
    Variant("efficientnet-l2",    V1,   _V1,      32, 4.3, 5.3, 800, 0.5, None, _IMAGENET, _CROP),
    Variant("efficientnet-lite0", LITE, _LITE,    32, 1.0, 1.0, 224, 0.2, 75.1, _C127,     _CROP),
    Variant("efficientnet-lite1", LITE, _LITE,    32, 1.0, 1.1, 240, 0.2, 76.7, _C127,     _CROP),
    Variant("efficientnet-lite2", LITE, _LITE,    32, 1.1, 1.2, 260, 0.3, 77.6, _C127,     _CROP),
    Variant("efficientnet-lite3", LITE, _LITE,    32, 1.2, 1.4, 280, 0.3, 79.8, _C127,     _CROP),
    Variant("efficientnet-lite4", LITE, _LITE,    32, 1.4, 1.8, 300, 0.3, 81.5, _C127,     _CROP),
    Variant("efficientnetv2-b0",  V2,   _V2_BASE, 32, 1.0, 1.0, 224, 0.2, 78.7, _IMAGENET, _CROP),
    Variant("efficientnetv2-b1",  V2,   _V2_BASE, 32, 1.0, 1.1, 240, 0.2, 79.8, _IMAGENET, _CROP),
    Variant("efficientnetv2-b2",  V2,   _V2_BASE, 32, 1.1, 1.2, 260, 0.3, 80.5, _IMAGENET, _CROP),
    Variant("efficientnetv2-b3",  V2,   _V2_BASE, 32, 1.2, 1.4, 300, 0.3, 82.1, _IMAGENET, _CROP),
    Variant("efficientnetv2-s",   V2,   _V2_S,    24, 1.0, 1.0, 384, 0.2, 83.9, _C128,     _WHOLE),
    Variant("efficientnetv2-m",   V2,   _V2_M,    24, 1.0, 1.0, 480, 0.3, 85.2, _C128,     _WHOLE),
    Variant("efficientnetv2-l",   V2,   _V2_L,    32, 1.0, 1.0, 480, 0.4, 85.7, _C128,     _WHOLE),
    Variant("efficientnetv2-xl",  V2,   _V2_XL,   32, 1.0, 1.0, 512, 0.4, None, _C128,     _WHOLE),
)}

_MOBILENET_V2 = (
    Stage("mbconv",     3, 1, 1,   16, 1, 0.0),
    Stage("mbconv",     3, 2, 6,   24, 2, 0.0),
    Stage("mbconv",     3, 2, 6,   32, 3, 0.0),
    Stage("mbconv",     3, 2, 6,   64, 4, 0.0),
    Stage("mbconv",     3, 1, 6,   96, 3, 0.0),
    Stage("mbconv",     3, 2, 6,  160, 3, 0.0),
    Stage("mbconv",     3, 1, 6,  320, 1, 0.0),
)
_RESNET_50 = (
    Stage("bottleneck", 3, 1, 4,  256, 3, 0.0),
    Stage("bottleneck", 3, 2, 4,  512, 4, 0.0),
    Stage("bottleneck", 3, 2, 4, 1024, 6, 0.0),
    Stage("bottleneck", 3, 2, 4, 2048, 3, 0.0),
)
# Bases of compound scaling that are not EfficientNets. No pretrained weights exist for them here.
# top-1: as reported in the EfficientNet paper, Table 3.
BASE_NETWORKS = {v.name: v for v in (
    Variant("mobilenetv2", MOBILENET_V2, _MOBILENET_V2, 32, 1.0, 1.0, 224, 0.2, 72.0, _C127_5,
            Evaluation(32, "bilinear"), drop_path_rate=0.0),
    Variant("resnet50", RESNET, _RESNET_50, 64, 1.0, 1.0, 224, 0.0, 76.0, _IMAGENET, _CROP,
            head_filters=0, drop_path_rate=0.0, bn_epsilon=1e-5, padding="symmetric"),
)}
# fmt: on
NETWORKS = {**VARIANTS, **BASE_NETWORKS}  # every name that create_model accepts
