"""What a recipe is: every number of a training, what it may be, and how it is shown. Pure.

Every field is a flag of ``effnet-train`` (``--epochs=30`` changes one number of a row), and every
field is read: a test asserts it.
"""

from dataclasses import dataclass, field, fields

from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import find_variant

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


def _says(help_text):
    return field(metadata={"help": help_text})


@dataclass(frozen=True)
class Recipe:
    """One way to train one network; ramps go from `_first` (first phase) to `_last`."""

    name: str = _says("of the row")
    source: str = _says("where the numbers come from")
    model: str = _says("a name of `effnet models`, or module:function that builds a Keras model")
    width: float = _says("factor on the model's filters; 1 for the published network")
    depth: float = _says("factor on the model's repeats; 1 for the published network")
    weights: str = _says(
        "to begin with: a set of `effnet weights`, auto, or a file; empty for none"
    )
    epochs: float = _says("over the training images")
    min_steps: int = _says("that a run has at least, however few its epochs' images")
    batch_size: int = _says("global, over all replicas; in the last phase, where it changes")
    batch_size_first: int = _says("in the first phase; 0 for batch_size in all")
    gradient_accumulation_first: int = _says(
        "parts that a batch is computed in, in the first phase"
    )
    gradient_accumulation_last: int = _says("parts that a batch is computed in, in the last phase")
    # progressive learning
    phases: int = _says("how many; image size and noise change between them")
    progressive_schedule: str = _says(
        "of image sizes: paper (first to last), code (the official code's: begins a step above "
        "first), random (a size between them for every phase)"
    )
    image_size_first: int = _says("pixels a side in the first phase")
    image_size_last: int = _says("pixels a side in the last phase")
    image_size_multiple: int = _says("training sizes are rounded to a multiple of it; 1 for any")
    image_size_eval: int = _says("pixels a side in evaluation and in the exported model")
    randaugment_magnitude_first: float = _says(
        "RandAugment's magnitude (of 10) in the first phase; 0 for none"
    )
    randaugment_magnitude_last: float = _says("RandAugment's magnitude in the last phase")
    mixup_first: float = _says("mixup's alpha in the first phase; 0 for none")
    mixup_last: float = _says("mixup's alpha in the last phase")
    cutmix_first: float = _says("CutMix's alpha in the first phase; 0 for none")
    cutmix_last: float = _says("CutMix's alpha in the last phase")
    dropout_first: float = _says("dropout rate before the classifier in the first phase")
    dropout_last: float = _says("dropout rate before the classifier in the last phase")
    drop_path_first: float = _says("stochastic depth's rate at the last block, in the first phase")
    drop_path_last: float = _says("stochastic depth's rate at the last block, in the last phase")
    # images
    augment: str = _says(
        "randaugment, autoaugment (policy v0), keras_cv (its layers; no exact resume) or none"
    )
    randaugment_layers: int = _says("operations an image")
    solarize_wraps: bool = _says(
        "the official code's overflow: a threshold of 256 inverts the image"
    )
    random_crop_min_area: float = _says(
        "least share of the image in a random crop; 1 for the whole image"
    )
    flip: bool = _says("left-right, half of the images")
    cutout: float = _says(
        "half side of a square of noise on every image, as a share of its side; 0 for none"
    )
    random_erasing_prob: float = _says("probability of a random rectangle of noise; 0 for none")
    interpolation: str = _says("of every resize: bilinear or bicubic")
    crop_eval: float = _says(
        "evaluation sees this share of the shorter side, from the centre; 0 for the whole image"
    )
    # loss
    loss: str = _says("softmax or sigmoid")
    label_smoothing: float = _says("share of the label spread over all classes")
    class_weights: str = _says(
        "none, or balanced: weights the loss of a class by the inverse of its frequency"
    )
    # optimisation
    optimizer: str = _says("rmsprop (TensorFlow 1's, as the papers'), sgd, adamw, lion, lamb, ...")
    learning_rate: float = _says("per 256 images of the batch")
    learning_rate_schedule: str = _says("cosine, exponential or constant")
    warmup_epochs: float = _says("of linear growth from 0")
    decay_epochs: float = _says("exponential: times 0.97 every so many epochs")
    weight_decay: float = _says("of kernels")
    weight_decay_mode: str = _says("l2 (in the gradient, as the papers') or decoupled")
    weight_decay_on_biases: bool = _says("weight decay of biases, too (not of batch norm)")
    zero_init_classifier: bool = _says(
        "the classifier starts at 0: for few classes, whose random one is wild"
    )
    freeze: str = _says("what does not learn: none, batch_norm (its statistics, too) or body")
    clip_norm: float = _says("largest norm of the whole gradient; 0 for any")
    ema_decay: float = _says("of the averaged weights")
    batch_norm_momentum: float = _says("of its moving statistics; 0 for the network's own")
    batch_norm_group_size: int = _says("images that share batch norm's statistics; 0 for the batch")
    # the machine
    precision: str = _says("of the activations: float32, bfloat16 or float16 (with a loss scale)")
    steps_per_loop: int = _says("steps between two looks at the figures")
    seed: int = _says("of initial weights, order, augmentation and dropout")


def check(recipe):
    """Raises ``ValueError`` for a number of a recipe that cannot work, and says what can."""
    if ":" not in recipe.model:
        find_variant(recipe.model)
    for what, known in (
        *(
            ("progressive_schedule", PROGRESSIVE_SCHEDULES),
            ("augment", AUGMENTS),
            ("interpolation", INTERPOLATIONS),
        ),
        *(
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("learning_rate_schedule", LEARNING_RATE_SCHEDULES),
        ),
        *(
            ("weight_decay_mode", WEIGHT_DECAYS),
            ("freeze", FREEZE),
            ("class_weights", CLASS_WEIGHTS),
            ("precision", PRECISIONS),
        ),
    ):
        if getattr(recipe, what) not in known:
            raise ValueError(unknown_name(what, getattr(recipe, what), known))
    for what in (
        *(
            "width",
            "depth",
            "epochs",
            "batch_size",
            "gradient_accumulation_first",
            "gradient_accumulation_last",
        ),
        *("phases", "image_size_multiple", "learning_rate", "decay_epochs", "steps_per_loop"),
    ):
        _at_least(recipe, what, 0, strictly=True)
    for what in (
        *(
            "min_steps",
            "batch_size_first",
            "randaugment_magnitude_first",
            "randaugment_magnitude_last",
            "mixup_first",
        ),
        *("mixup_last", "cutmix_first", "cutmix_last", "randaugment_layers", "warmup_epochs"),
        *("weight_decay", "clip_norm", "batch_norm_group_size"),
    ):
        _at_least(recipe, what, 0)
    for what in ("image_size_first", "image_size_last", "image_size_eval"):
        _at_least(recipe, what, 32)
    for what in (
        *("dropout_first", "dropout_last", "drop_path_first", "drop_path_last", "cutout"),
        *("label_smoothing", "ema_decay", "batch_norm_momentum"),
    ):
        if not 0 <= getattr(recipe, what) < 1:
            raise ValueError(f"{what} {getattr(recipe, what)} is out of range: give one in [0, 1)")
    for what in ("random_erasing_prob", "crop_eval"):
        if not 0 <= getattr(recipe, what) <= 1:
            raise ValueError(f"{what} {getattr(recipe, what)} is out of range: give one in [0, 1]")
    if not 0 < recipe.random_crop_min_area <= 1:
        raise ValueError(
            f"random_crop_min_area {recipe.random_crop_min_area} is no share of an image: give one in (0, 1]"
        )


def _at_least(recipe, what, least, strictly=False):
    value = getattr(recipe, what)
    if value < least or (strictly and value == least):
        raise ValueError(
            f"{what} {value} cannot work: give {'more than' if strictly else 'at least'} {least}"
        )


def show(recipe):
    """The recipe as aligned lines, one field each."""
    return "\n".join(f"{f.name:<27} {getattr(recipe, f.name)}" for f in fields(recipe))
