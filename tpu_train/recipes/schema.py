"""The fields of a training recipe, the values they accept, and their text form. No TensorFlow.

Every field is a flag of ``effnet-train`` (``--epochs=30`` overrides one number of a recipe), and
every field is read during training: a test observes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_lookup import find_variant

OPTIMIZERS = (
    *("rmsprop", "sgd", "adamw", "lion", "lamb"),
    *("tfa_lazyadam", "tfa_novograd", "tfa_yogi", "tfa_lookahead"),
)
LEARNING_RATE_SCHEDULES = ("cosine", "exponential", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
PROGRESSIVE_SCHEDULES = ("paper", "code", "random")
AUGMENTS = ("randaugment", "autoaugment", "keras_cv", "none")
INTERPOLATIONS = ("bilinear", "bicubic")
CLASS_WEIGHTS = ("none", "balanced")
LOSSES = ("softmax", "sigmoid")
WEIGHT_DECAYS = ("l2", "decoupled")
FREEZE = ("none", "batch_norm", "backbone")


def _setting(help_text, group=""):
    """A field with its help text; `group` titles the fields from this one on in ``--help``."""
    return field(metadata={"help": help_text, "group": group})


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Phased settings ramp from `_first` to `_last`.

    No field has a default: a published recipe states every number, and a new field must be given a
    value in the two base rows (`project.py`, `published.py`).
    """

    name: str = _setting("name of the recipe", "model and run length")
    source: str = _setting("where the numbers come from")
    model: str = _setting(
        "a name listed by `effnet models`, keras.applications:NAME, module:function that builds a "
        "Keras model, or a .keras file of any classifier (docs/any-network.md)"
    )
    width: float = _setting("width multiplier of the model; 1 for the published network")
    depth: float = _setting("depth multiplier of the model; 1 for the published network")
    weights: str = _setting(
        "initial weights: a name listed by `effnet weights`, auto, a name that the module's "
        "function knows (imagenet), or a file; empty for random"
    )
    epochs: float = _setting("passes over the training images")
    min_steps: int = _setting("minimum number of training steps, whatever the epochs amount to")
    batch_size: int = _setting("global batch size over all replicas (of the last phase)")
    batch_size_first: int = _setting(
        "global batch size of the first phase; 0 for batch_size throughout"
    )
    gradient_accumulation_first: int = _setting(
        "gradient-accumulation steps of a batch in the first phase"
    )
    gradient_accumulation_last: int = _setting(
        "gradient-accumulation steps of a batch in the last phase"
    )

    phases: int = _setting(
        "number of phases; image size and regularization change between them",
        "progressive learning from the first to the last phase",
    )
    progressive_schedule: str = _setting(
        "image sizes of the phases: paper (first to last), code (the official code's, which starts "
        "one step above first), random (a random size between them in every phase)"
    )
    image_size_first: int = _setting("image side in the first phase, in pixels")
    image_size_last: int = _setting("image side in the last phase, in pixels")
    image_size_multiple: int = _setting("round image sizes to a multiple of this; 1 for any size")
    image_size_eval: int = _setting("image side in evaluation and in the exported model, in pixels")
    randaugment_magnitude_first: float = _setting(
        "RandAugment magnitude (10 is the reference) in the first phase; 0 for none"
    )
    randaugment_magnitude_last: float = _setting("RandAugment magnitude in the last phase")
    mixup_first: float = _setting("mixup alpha in the first phase; 0 for none")
    mixup_last: float = _setting("mixup alpha in the last phase")
    cutmix_first: float = _setting("CutMix alpha in the first phase; 0 for none")
    cutmix_last: float = _setting("CutMix alpha in the last phase")
    dropout_first: float = _setting("dropout rate before the classifier in the first phase")
    dropout_last: float = _setting("dropout rate before the classifier in the last phase")
    drop_path_first: float = _setting("stochastic-depth rate at the last block in the first phase")
    drop_path_last: float = _setting("stochastic-depth rate at the last block in the last phase")

    augment: str = _setting(
        "augmentation policy: randaugment, autoaugment (v0), keras_cv (its layers; resuming is not "
        "exact) or none",
        "images",
    )
    randaugment_layers: int = _setting("RandAugment operations per image")
    solarize_wraps: bool = _setting(
        "reproduce the uint8 overflow of the official code: a threshold of 256 inverts the image"
    )
    random_crop_min_area: float = _setting(
        "minimum area of a random crop, as a fraction of the image; 1 for no cropping"
    )
    flip: bool = _setting("flip half of the images left to right")
    cutout: float = _setting(
        "half the side of a square of random pixels on every image, as a fraction of the image "
        "side; 0 for none"
    )
    random_erasing_prob: float = _setting("probability of random erasing; 0 for none")
    interpolation: str = _setting("interpolation of every resize: bilinear or bicubic")
    crop_eval: float = _setting(
        "center crop of evaluation, as a fraction of the shorter side; 0 for the full image"
    )
    ignore_exif: bool = _setting(
        "leave photos as they are stored, whatever their EXIF rotation, as the papers' code does"
    )

    loss: str = _setting("cross-entropy: softmax or sigmoid", "loss")
    label_smoothing: float = _setting("fraction of the label spread over all classes")
    class_weights: str = _setting(
        "none, or balanced: weight the loss of each class by its inverse frequency"
    )

    optimizer: str = _setting(f"one of {', '.join(OPTIMIZERS)}", "optimization")
    learning_rate: float = _setting("peak learning rate per 256 images of the batch")
    learning_rate_schedule: str = _setting("cosine, exponential or constant")
    warmup_epochs: float = _setting("epochs of linear warm-up from 0")
    decay_epochs: float = _setting("exponential schedule: multiply by 0.97 at this interval")
    weight_decay: float = _setting("weight decay of kernels")
    weight_decay_mode: str = _setting("l2 (in the gradient, as in the papers) or decoupled")
    weight_decay_on_biases: bool = _setting(
        "decay biases, too (never the parameters of batch normalization)"
    )
    zero_init_classifier: bool = _setting(
        "initialize the classifier to zero (for fine-tuning to few classes)"
    )
    freeze: str = _setting(
        "layers that are not trained: none, batch_norm (including its statistics) or backbone"
    )
    clip_norm: float = _setting("maximum global norm of the gradient; 0 for no clipping")
    ema_decay: float = _setting("decay of the exponential moving average (EMA) of the weights")
    batch_norm_momentum: float = _setting(
        "momentum of the moving statistics; 0 for the network's default"
    )
    batch_norm_group_size: int = _setting(
        "images that share batch-normalization statistics; 0 for the full batch"
    )

    precision: str = _setting(
        "activation dtype: float32, bfloat16 or float16 (with loss scaling)", "machine"
    )
    steps_per_loop: int = _setting("train steps per host call; metrics are logged at this interval")
    seed: int = _setting("seed of initial weights, image order, augmentation and dropout")


_CHOICES = {
    "progressive_schedule": PROGRESSIVE_SCHEDULES,
    "augment": AUGMENTS,
    "interpolation": INTERPOLATIONS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": LEARNING_RATE_SCHEDULES,
    "weight_decay_mode": WEIGHT_DECAYS,
    "freeze": FREEZE,
    "class_weights": CLASS_WEIGHTS,
    "precision": PRECISIONS,
}
_POSITIVE = (
    *("width", "depth", "epochs", "batch_size", "phases", "image_size_multiple", "learning_rate"),
    *("gradient_accumulation_first", "gradient_accumulation_last"),
    *("decay_epochs", "steps_per_loop"),
)
_NOT_NEGATIVE = (
    *("min_steps", "batch_size_first", "randaugment_magnitude_first"),
    *("randaugment_magnitude_last", "mixup_first", "mixup_last", "cutmix_first", "cutmix_last"),
    *("randaugment_layers", "warmup_epochs", "weight_decay", "clip_norm", "batch_norm_group_size"),
)
_IMAGE_SIZES = ("image_size_first", "image_size_last", "image_size_eval")
_BELOW_1 = (
    *("dropout_first", "dropout_last", "drop_path_first", "drop_path_last", "cutout"),
    *("label_smoothing", "ema_decay", "batch_norm_momentum"),
)
_UP_TO_1 = ("random_erasing_prob", "crop_eval")


def model_kind(model: str) -> str:
    """What a recipe's model is: "variant", "function" (``module:function``) or "file".

    >>> model_kind("efficientnet-b0"), model_kind("my_nets:small"), model_kind("small.keras")
    ('variant', 'function', 'file')
    """
    if model.endswith((".keras", ".h5")):
        return "file"
    return "function" if ":" in model else "variant"


def check(recipe: Recipe) -> None:
    """Raises ``ValueError`` for a setting out of range, with the values that are accepted."""
    if model_kind(recipe.model) == "variant":
        find_variant(recipe.model)
    for name, choices in _CHOICES.items():
        if getattr(recipe, name) not in choices:
            raise ValueError(unknown_name(name, getattr(recipe, name), choices))
    ranges = (
        (_POSITIVE, lambda value: value > 0, "greater than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
        (_IMAGE_SIZES, lambda value: value >= 32, "at least 32"),
        (_BELOW_1, lambda value: 0 <= value < 1, "in [0, 1)"),
        (_UP_TO_1, lambda value: 0 <= value <= 1, "in [0, 1]"),
        (("seed",), lambda value: 0 <= value < 2**32, "in [0, 2**32)"),
        (("random_crop_min_area",), lambda value: 0 < value <= 1, "in (0, 1]"),
    )
    for names, is_valid, accepted in ranges:
        for name in names:
            value = getattr(recipe, name)
            if not is_valid(value) or not math.isfinite(value):
                raise ValueError(f"{name} must be {accepted}, got {value}")


def show(recipe: Recipe) -> str:
    """The recipe as aligned lines, one field each."""
    return "\n".join(f"{f.name:<27} {getattr(recipe, f.name)}" for f in fields(recipe))
