"""EfficientNet for Keras: V1 (B0-B8, L2), V2 (B0-B3, S, M, L, XL) and Lite0-4.

>>> import keras_effnet
>>> model = keras_effnet.EfficientNetV2M(weights=None)
>>> model.count_params()
54431388

Importing this package does not import Keras; building a model does.
"""

# ruff: noqa: F405

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_effnet.public_names import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "PRETRAINED_WEIGHTS",
    "VARIANTS",
    "Block",
    "Cost",
    "DownloadError",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetB8",
    "EfficientNetL2",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "EfficientNetLite3",
    "EfficientNetLite4",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2L",
    "EfficientNetV2M",
    "EfficientNetV2S",
    "EfficientNetV2XL",
    "FeatureTable",
    "Finding",
    "Level",
    "Plan",
    "Preprocessing",
    "Stage",
    "UnfreezePhase",
    "Variant",
    "change_image_size",
    "check_model",
    "cost",
    "create_model",
    "decode_image",
    "decode_predictions",
    "export_onnx",
    "feature_table",
    "features",
    "freeze",
    "imagenet_classes",
    "label_map",
    "layer_groups",
    "layer_rates",
    "list_models",
    "list_weights",
    "load_image",
    "plan",
    "porting",
    "preprocess",
    "preprocess_input",
    "preprocessing",
    "saliency",
    "scale",
    "unfreeze",
    "unfreeze_schedule",
    "with_new_head",
]


def __getattr__(name):
    # At the first use: a command handles Ctrl-C before it imports the rest.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module("keras_effnet.public_names"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
