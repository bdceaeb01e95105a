"""The public names of keras_effnet, which the package imports at their first use."""

# ruff: noqa: F401

from keras_effnet import porting, saliency
from keras_effnet.constructors import (
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    EfficientNetB8,
    EfficientNetL2,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
    EfficientNetV2B0,
    EfficientNetV2B1,
    EfficientNetV2B2,
    EfficientNetV2B3,
    EfficientNetV2L,
    EfficientNetV2M,
    EfficientNetV2S,
    EfficientNetV2XL,
    create_model,
)
from keras_effnet.diagnostics import check_model
from keras_effnet.feature_pyramid import FeatureTable, Level, feature_table, features
from keras_effnet.finding import Finding
from keras_effnet.finetuning import (
    UnfreezePhase,
    freeze,
    layer_groups,
    layer_rates,
    unfreeze,
    unfreeze_schedule,
    with_new_head,
)
from keras_effnet.image_decoding import decode_image, load_image
from keras_effnet.image_preprocessing import (
    Preprocessing,
    preprocess,
    preprocess_input,
    preprocessing,
)
from keras_effnet.image_size import change_image_size
from keras_effnet.labels import decode_predictions, imagenet_classes, label_map
from keras_effnet.model_cost import Cost, cost
from keras_effnet.network_plan import Block, Plan, plan
from keras_effnet.onnx_export import export_onnx
from keras_effnet.pretrained.download import DownloadError
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS, list_weights
from keras_effnet.scaling import scale
from keras_effnet.variant_lookup import list_models
from keras_effnet.variants import VARIANTS, Stage, Variant
