"""The fields of a training recipe, the values they accept, and their text form. No TensorFlow.

Every field is a flag of ``effnet-train`` (``--epochs=30`` overrides one number of a recipe), and
every field is read during training: a test observes it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields

from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_lookup import find_variant

# optimizer -> its settings, and their values unless a recipe states others (optimizers.py has the
# sources)
OPTIMIZER_SETTINGS = {
    "rmsprop": {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3},
    "sgd": {"momentum": 0.9},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "lamb": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6},
}
OPTIMIZERS = (
    *OPTIMIZER_SETTINGS,
    *("tfa_lazyadam", "tfa_novograd", "tfa_yogi", "tfa_lookahead"),
)
LEARNING_RATE_SCHEDULES = ("cosine", "exponential", "step", "plateau", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
PROGRESSIVE_SCHEDULES = ("paper", "code", "random")
AUGMENTS = ("randaugment", "autoaugment", "trivialaugment", "keras_cv", "none")
INTERPOLATIONS = ("bilinear", "bicubic")
LOSSES = ("softmax", "sigmoid")
WEIGHT_DECAYS = ("l2", "decoupled")
PSEUDO_LABELS = ("soft", "hard")
EARLY_STOPPING_METRICS = ("loss", "accuracy")
DEFAULT = -1.0  # of an optimizer setting: the optimizer's value


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
    freeze: str = _setting(
        "layers that do not train: none, batch_norm (with its statistics), backbone (all but the "
        "classifier), a group of layers with all before it (stem, block1, ..., top), or a pattern "
        "of layer names (block2*); several joined by +. Values for the phases are separated by "
        "commas, and the last holds for the rest: --phases=3 --freeze=backbone,block3+batch_norm"
    )

    augment: str = _setting(
        "augmentation policy: randaugment, autoaugment (v0), trivialaugment (wide), keras_cv (its "
        "layers; resuming is not exact) or none",
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
    vertical_flip: bool = _setting("flip half of the images upside down")
    quarter_turns: bool = _setting("turn every image by 0, 90, 180 or 270 degrees")
    color_jitter: float = _setting(
        "maximum change of brightness, contrast and saturation, as a fraction; 0 for none"
    )
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
        "do not turn photos upright by their EXIF rotation, as in the papers' code"
    )

    loss: str = _setting("cross-entropy: softmax or sigmoid", "loss")
    label_smoothing: float = _setting("fraction of the label spread over all classes")
    class_weights: str = _setting(
        "weights of the classes in the loss: none, balanced (inverse to their frequency), "
        "name:weight,... (1 for the others), or a .json file of {name: weight}"
    )
    oversample: bool = _setting(
        "repeat the images of rarer classes until each class has as many as the largest"
    )

    unlabeled_ratio: float = _setting(
        "pseudo-labeled images (--unlabeled) for each labeled image of a batch, in addition to "
        "batch_size; 0 for none",
        "pseudo-labels and distillation",
    )
    pseudo_labels: str = _setting(
        "targets of pseudo-labeled images: soft (the teacher's scores) or hard (the best class)"
    )
    teacher: str = _setting(
        "distillation: a .keras file whose predictions on the training images are learned beside "
        "the labels; empty for none"
    )
    teacher_temperature: float = _setting(
        "temperature of the teacher's scores, of soft pseudo-labels and of --teacher; 1 for the "
        "scores themselves"
    )
    teacher_weight: float = _setting(
        "weight of --teacher in the loss; the rest is that of the labels"
    )

    optimizer: str = _setting(f"one of {', '.join(OPTIMIZERS)}", "optimization")
    learning_rate: float = _setting("peak learning rate per 256 images of the batch")
    momentum: float = _setting("momentum of rmsprop and sgd; -1 for the optimizer's default")
    rho: float = _setting("decay of rmsprop's mean square; -1 for the optimizer's default")
    beta1: float = _setting("beta1 of adam, adamw, lamb and lion; -1 for the optimizer's default")
    beta2: float = _setting("beta2 of adam, adamw, lamb and lion; -1 for the optimizer's default")
    epsilon: float = _setting(
        "epsilon of rmsprop, adam, adamw and lamb; -1 for the optimizer's default"
    )
    learning_rate_schedule: str = _setting(
        "cosine, constant, exponential or step (two names for multiplying by decay_factor every "
        "decay_epochs), or plateau (multiplies by decay_factor when evaluations do not improve)"
    )
    warmup_epochs: float = _setting(
        "epochs of linear warm-up from 0, also when --freeze lets other layers train"
    )
    decay_epochs: float = _setting("interval of the exponential and step schedules, in epochs")
    decay_factor: float = _setting("factor of the exponential, step and plateau schedules")
    plateau_patience: int = _setting(
        "plateau schedule: evaluations without a better early_stopping_metric before each decay"
    )
    early_stopping_patience: int = _setting(
        "end a phase after this number of evaluations without a better one; 0 for no early "
        "stopping. The exported model is then the best one of the run"
    )
    early_stopping_metric: str = _setting(
        "what early stopping and plateau compare, and what best.keras is then the best in: loss or "
        "accuracy of the evaluation images. Without them, best.keras has the best accuracy"
    )
    layer_decay: float = _setting(
        "learning rate of a group of layers, as a fraction of the rate of the next group; 1 for "
        "one rate (groups: stem, block1, ..., top, classifier; other networks have one rate)"
    )
    weight_decay: float = _setting("weight decay of kernels")
    weight_decay_mode: str = _setting("l2 (in the gradient, as in the papers) or decoupled")
    weight_decay_on_biases: bool = _setting(
        "decay biases, too (never the parameters of batch normalization)"
    )
    zero_init_classifier: bool = _setting(
        "initialize the classifier to zero (for fine-tuning to few classes)"
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
    "pseudo_labels": PSEUDO_LABELS,
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": LEARNING_RATE_SCHEDULES,
    "weight_decay_mode": WEIGHT_DECAYS,
    "early_stopping_metric": EARLY_STOPPING_METRICS,
    "precision": PRECISIONS,
}
_POSITIVE = (
    *("width", "depth", "epochs", "batch_size", "phases", "image_size_multiple", "learning_rate"),
    *("gradient_accumulation_first", "gradient_accumulation_last"),
    *("decay_epochs", "steps_per_loop", "plateau_patience"),
    "teacher_temperature",
)
_NOT_NEGATIVE = (
    *("min_steps", "batch_size_first", "randaugment_magnitude_first"),
    *("randaugment_magnitude_last", "mixup_first", "mixup_last", "cutmix_first", "cutmix_last"),
    *("randaugment_layers", "warmup_epochs", "weight_decay", "clip_norm", "batch_norm_group_size"),
    *("early_stopping_patience", "unlabeled_ratio"),
)
IMAGE_SIZES = ("image_size_first", "image_size_last", "image_size_eval")
_BELOW_1 = (
    *("dropout_first", "dropout_last", "drop_path_first", "drop_path_last", "cutout"),
    *("label_smoothing", "ema_decay", "batch_norm_momentum"),
)
_UP_TO_1 = ("random_erasing_prob", "crop_eval", "color_jitter", "teacher_weight")
_POSITIVE_UP_TO_1 = ("random_crop_min_area", "decay_factor", "layer_decay")


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
        (IMAGE_SIZES, lambda value: value >= 32, "at least 32"),
        (_BELOW_1, lambda value: 0 <= value < 1, "in [0, 1)"),
        (_UP_TO_1, lambda value: 0 <= value <= 1, "in [0, 1]"),
        (_POSITIVE_UP_TO_1, lambda value: 0 < value <= 1, "in (0, 1]"),
        (("seed",), lambda value: 0 <= value < 2**32, "in [0, 2**32)"),
    )
    for names, is_valid, accepted in ranges:
        for name in names:
            value = getattr(recipe, name)
            if not is_valid(value) or not math.isfinite(value):
                raise ValueError(f"{name} must be {accepted}, got {value}")
    freezes = recipe.freeze.split(",")
    if len(freezes) > recipe.phases or "" in freezes:
        raise ValueError(
            f"freeze {recipe.freeze!r} must have one value for all phases, or up to "
            f"{recipe.phases} separated by commas, one for each phase (--phases)"
        )
    if recipe.unlabeled_ratio and recipe.augment == "keras_cv":
        raise ValueError(
            "augment 'keras_cv' mixes the labels of classes, not the scores of pseudo-labels: give "
            "--augment=randaugment, or --unlabeled_ratio=0"
        )
    _check_optimizer(recipe)
    if recipe.class_weights not in ("none", "balanced"):
        parse_class_weights(recipe.class_weights)


def parse_class_weights(setting: str) -> dict[str, float]:
    """{class name: weight} of the text of a setting that is neither "none" nor "balanced"."""
    how = 'give none, balanced, weights such as cat:2,dog:1, or a .json file such as {"cat": 2}'
    try:
        if setting.lstrip().startswith("{"):
            weights = json.loads(setting)
        else:
            pairs = [pair.rpartition(":") for pair in setting.split(",")]
            weights = {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise ValueError(f"class_weights {setting!r} cannot be read ({error}): {how}") from error
    for name, weight in weights.items():
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number or not 0 < weight < math.inf:
            raise ValueError(
                f"class_weights: the weight of {name!r} must be a positive number, got {weight!r}"
            )
    return weights


def check_unlabeled(recipe: Recipe, unlabeled: str) -> None:
    """Raises ``ValueError`` unless recipe and run both have pseudo-labeled images, or neither.

    `unlabeled` is the name of the images, or "".
    """
    if recipe.unlabeled_ratio and not unlabeled:
        raise ValueError(
            f"unlabeled_ratio is {recipe.unlabeled_ratio}, but there are no pseudo-labeled images: "
            "give --unlabeled=SHARDS (the --out of effnet-train pseudo-label), or "
            "--unlabeled_ratio=0"
        )
    if unlabeled and not recipe.unlabeled_ratio:
        raise ValueError(
            f"unlabeled_ratio is 0, so the images of {unlabeled} would not be used: give "
            "--unlabeled_ratio=1 or more, a recipe such as noisy-student-finetune, or leave "
            "--unlabeled out"
        )


def _check_optimizer(recipe):
    """Raises ``ValueError`` for settings that the recipe's optimizer does not have."""
    accepted = OPTIMIZER_SETTINGS.get(recipe.optimizer, {})
    for name in ("momentum", "rho", "beta1", "beta2", "epsilon"):
        value = getattr(recipe, name)
        if value == DEFAULT:
            continue
        if name not in accepted:
            raise ValueError(
                f"{name} is no setting of {recipe.optimizer}, which has "
                f"{', '.join(accepted) or 'none'}: leave --{name} out"
            )
        if not (value > 0 if name == "epsilon" else 0 <= value < 1):
            raise ValueError(
                f"{name} must be {'greater than 0' if name == 'epsilon' else 'in [0, 1)'}, or -1 "
                f"for the value of {recipe.optimizer} ({accepted[name]}), got {value}"
            )
    if recipe.optimizer == "adam" and recipe.weight_decay and recipe.weight_decay_mode != "l2":
        raise ValueError(
            "adam has no decoupled weight decay (with it, it is adamw): give --optimizer=adamw, "
            "--weight_decay_mode=l2 or --weight_decay=0"
        )
    one_setting = len(set(recipe.freeze.split(","))) == 1 and recipe.layer_decay == 1
    if recipe.optimizer not in OPTIMIZER_SETTINGS and not one_setting:
        raise ValueError(  # tensorflow-addons counts the steps of all variables together
            f"{recipe.optimizer} trains the same layers in all phases, at one learning rate: give "
            f"one value of --freeze and --layer_decay=1, or one of the optimizers "
            f"{', '.join(OPTIMIZER_SETTINGS)}"
        )


def show(recipe: Recipe) -> str:
    """The recipe as aligned lines, one field each."""
    return "\n".join(f"{f.name:<27} {getattr(recipe, f.name)}" for f in fields(recipe))
