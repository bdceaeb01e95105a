"""Recipes of this project: small data sets, ablations, and published rows for one accelerator.

No TensorFlow.
"""

from __future__ import annotations

from dataclasses import replace

from tpu_train.recipes.published import PUBLISHED
from tpu_train.recipes.schema import DEFAULT, Recipe

_PUBLISHED = {row.name: row for row in PUBLISHED}

# --- small data sets, any machine --------------------------------------------------------------

_DIGITS = Recipe(
    name="digits",
    source="this project: 1,797 handwritten digits of scikit-learn on two CPU cores in minutes",
    model="efficientnetv2-b0",
    width=1,
    depth=1,
    weights="",
    epochs=14,
    min_steps=0,
    batch_size=64,
    batch_size_first=0,
    gradient_accumulation_first=1,
    gradient_accumulation_last=1,
    phases=3,
    progressive_schedule="paper",
    image_size_first=34,  # from 33 px the last stage has 2x2 pixels, so all its weights are trained
    image_size_last=40,
    image_size_multiple=1,
    image_size_eval=40,
    randaugment_magnitude_first=1,
    randaugment_magnitude_last=3,
    mixup_first=0.0,
    mixup_last=0.1,
    cutmix_first=0.0,
    cutmix_last=0.0,
    dropout_first=0.0,
    dropout_last=0.2,
    drop_path_first=0.05,
    drop_path_last=0.05,
    freeze="none",
    augment="randaugment",
    randaugment_layers=1,
    solarize_wraps=False,
    random_crop_min_area=0.8,
    flip=False,
    vertical_flip=False,
    quarter_turns=False,
    color_jitter=0.0,
    cutout=0.0,
    random_erasing_prob=0.0,
    interpolation="bilinear",
    crop_eval=0.0,
    ignore_exif=False,
    loss="softmax",
    label_smoothing=0.05,
    class_weights="none",
    oversample=False,
    unlabeled_ratio=0.0,
    pseudo_labels="soft",
    teacher="",
    teacher_temperature=1.0,
    teacher_weight=0.5,
    optimizer="adamw",
    learning_rate=8e-3,
    momentum=DEFAULT,
    rho=DEFAULT,
    beta1=DEFAULT,
    beta2=DEFAULT,
    epsilon=DEFAULT,
    learning_rate_schedule="cosine",
    warmup_epochs=2,
    decay_epochs=2.4,
    decay_factor=0.97,
    plateau_patience=5,
    early_stopping_patience=0,
    early_stopping_metric="loss",
    layer_decay=1.0,
    weight_decay=0.02,
    weight_decay_mode="decoupled",
    weight_decay_on_biases=False,
    zero_init_classifier=True,
    clip_norm=1.0,
    ema_decay=0.98,
    batch_norm_momentum=0.0,
    batch_norm_group_size=0,
    precision="float32",
    steps_per_loop=10,
    seed=0,
)

_PHOTOS = replace(
    _DIGITS,
    name="photos",
    source="this project: a few thousand photos in class folders, from scratch, on any machine",
    epochs=60,
    phases=4,
    image_size_first=64,
    image_size_last=128,
    image_size_eval=160,
    randaugment_magnitude_first=5,
    randaugment_magnitude_last=10,
    mixup_last=0.2,
    dropout_first=0.1,
    dropout_last=0.3,
    drop_path_first=0.2,
    drop_path_last=0.2,
    randaugment_layers=2,
    random_crop_min_area=0.25,
    flip=True,
    label_smoothing=0.1,
    learning_rate=4e-3,
    warmup_epochs=5,
    weight_decay=0.05,
    ema_decay=0.998,
)

_FINETUNE = replace(
    _PHOTOS,
    name="finetune",
    source="this project: a few hundred photos or more, from published weights",
    weights="auto",
    epochs=30,
    phases=1,  # smaller images first lower the accuracy (docs/results/transfer.md)
    image_size_first=224,
    image_size_last=224,
    image_size_eval=224,
    augment="none",  # RandAugment lowers the accuracy in 30 epochs (docs/results/finetuning.md)
    randaugment_magnitude_first=0,
    randaugment_magnitude_last=0,
    mixup_last=0.0,
    dropout_first=0.2,
    dropout_last=0.2,
    drop_path_first=0.1,
    drop_path_last=0.1,
    random_crop_min_area=0.6,
    # Chosen with 40 images per class, and tried on 50,000 images (docs/results/finetuning.md).
    freeze="batch_norm",
    layer_decay=0.75,
    batch_size=32,
    learning_rate=3e-3,
    warmup_epochs=1,
    ema_decay=0.98,
)

_FINETUNE_HEAD_FIRST = replace(
    _FINETUNE,
    name="finetune-head-first",
    source="this project: finetune, with the classifier alone in the first fifth",
    phases=5,
    freeze="backbone,batch_norm",
)

_SEARCH = replace(
    _DIGITS,
    name="search",
    source="this project: a trial of effnet-train search; about 10 epochs at a reduced size, as in "
    "EfficientNetV2 (arXiv 2104.00298), section 3.2",
    epochs=10,
    phases=1,
    image_size_first=128,
    image_size_last=128,
    image_size_eval=128,
    randaugment_magnitude_first=0,
    randaugment_magnitude_last=0,
    mixup_last=0.0,
    dropout_first=0.1,
    dropout_last=0.1,
    drop_path_first=0.0,
    drop_path_last=0.0,
    random_crop_min_area=0.6,
    flip=True,
    warmup_epochs=1,
    steps_per_loop=20,
)


# --- ablations of progressive learning -----------------------------------------------------------


def _constant_regularization(row):
    """The row with the last phase's regularization in all phases."""
    return replace(
        row,
        randaugment_magnitude_first=row.randaugment_magnitude_last,
        mixup_first=row.mixup_last,
        dropout_first=row.dropout_last,
    )


def _ablations(adaptive, name, fixed_phases, random_phases):
    """Four rows to compare with `adaptive`, in which image size and regularization both grow.

    Fixed, random and growing sizes with the last phase's regularization throughout, and random
    sizes with regularization that follows the size.
    """
    constant = _constant_regularization(adaptive)
    random_sizes = {"progressive_schedule": "random", "phases": random_phases}
    fixed_size = {"image_size_first": adaptive.image_size_last, "phases": fixed_phases}
    return (
        replace(constant, name=f"{name}-fixed", **fixed_size),
        replace(constant, name=f"{name}-random", **random_sizes),
        replace(adaptive, name=f"{name}-random-adaptive", **random_sizes),
        replace(constant, name=f"{name}-progressive"),
    )


_CIFAR10 = replace(
    _DIGITS,
    name="cifar10-adaptive",
    source="this project: EfficientNetV2 (arXiv 2104.00298), Table 13, in small: 2,000 images of "
    "CIFAR-10 on two CPU cores",
    width=0.25,
    depth=0.5,
    epochs=96,
    phases=4,
    image_size_first=56,  # 1.8 times CIFAR-10's 32 px: two pixels a side in the last stage
    image_size_last=128,
    image_size_eval=128,
    randaugment_magnitude_first=2,
    randaugment_magnitude_last=6,
    mixup_last=0.1,
    dropout_first=0.0,
    dropout_last=0.2,
    random_crop_min_area=0.35,
    flip=True,
    label_smoothing=0.1,
    learning_rate_schedule="exponential",
    warmup_epochs=4,
    decay_epochs=1.6,
    weight_decay=0.05,
    ema_decay=0.995,
    steps_per_loop=20,
)
_CIFAR10_ROWS = (_CIFAR10, *_ablations(_CIFAR10, "cifar10", fixed_phases=4, random_phases=12))

ABLATIONS = _ablations(
    replace(
        _PUBLISHED["efficientnetv2-s-paper"],
        source="EfficientNetV2 (arXiv 2104.00298), section 6.3 and Table 13",
    ),
    "efficientnetv2-s",
    fixed_phases=1,
    random_phases=44,  # "every eight epochs", of 350
)


# --- published rows for one accelerator ----------------------------------------------------------
# The learning rate is per 256 images, so a smaller batch lowers the peak rate with no other change.


def _derived(row, where, **changes):
    return replace(
        row,
        name=f"{row.name}-{where}",
        source=f"derived by this project from {row.name}: batch for {where}, unmeasured",
        batch_norm_group_size=0,
        **changes,
    )


# fmt: off
DERIVED = tuple(
    _derived(_PUBLISHED[name], where, batch_size=batch,
             gradient_accumulation_first=first, gradient_accumulation_last=last,
             precision="float16" if where == "1gpu" else "bfloat16")
    for name, where, batch, first, last in (
        # 1gpu: one GPU of 16 to 24 GB in float16, as in main.py. v5e8: eight TPU cores of 16 GB.
        #                                            batch accumulation: first, last phase
        ("efficientnet-b0-code",            "1gpu",   256,  1, 1),
        ("efficientnetv2-b0-code",          "1gpu",   256,  1, 1),
        ("efficientnetv2-s-paper",          "1gpu",   256,  1, 4),
        ("efficientnetv2-s-code",           "1gpu",   256,  1, 4),
        ("efficientnetv2-s-21k-ft1k-paper", "1gpu",   128,  4, 4),
        ("efficientnetv2-s-transfer-paper", "1gpu",   128,  4, 4),
        ("efficientnetv2-b0-code",          "v5e8",  1024,  1, 1),
        ("efficientnetv2-s-paper",          "v5e8",  1024,  1, 2),
        ("efficientnetv2-m-paper",          "v5e8",  1024,  1, 4),
    )
)
# fmt: on

SMALL_DATA = (_DIGITS, _PHOTOS, _FINETUNE, _FINETUNE_HEAD_FIRST, *_CIFAR10_ROWS, _SEARCH)
