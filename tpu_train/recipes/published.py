"""How networks are trained, as rows of numbers (docs/recipes.md). Pure: no TensorFlow."""

import difflib
from dataclasses import replace

from tpu_train.recipes.schema import Recipe

# --- ours: small data, any machine -------------------------------------------------------------

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
    image_size_first=34,  # the last stage has 2x2 pixels from 33 on, and so learns all its weights
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
    augment="randaugment",
    randaugment_layers=1,
    solarize_wraps=False,
    random_crop_min_area=0.8,
    flip=False,
    cutout=0.0,
    random_erasing_prob=0.0,
    interpolation="bilinear",
    crop_eval=0.0,
    loss="softmax",
    label_smoothing=0.05,
    class_weights="none",
    optimizer="adamw",
    learning_rate=8e-3,
    learning_rate_schedule="cosine",
    warmup_epochs=2,
    decay_epochs=2.4,
    weight_decay=0.02,
    weight_decay_mode="decoupled",
    weight_decay_on_biases=False,
    zero_init_classifier=True,
    freeze="none",
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
    phases=1,  # smaller images first would cost what the body knows (docs/results/transfer.md)
    image_size_first=224,
    image_size_last=224,
    image_size_eval=224,
    randaugment_magnitude_first=5,
    randaugment_magnitude_last=5,
    mixup_last=0.0,
    dropout_first=0.2,
    dropout_last=0.2,
    drop_path_first=0.1,
    drop_path_last=0.1,
    random_crop_min_area=0.6,
    warmup_epochs=1,
    ema_decay=0.98,
)


# --- published: the papers' and the official codes' --------------------------------------------
# Two versions of each. Where a paper is silent its row has the official code's number, and where
# both are silent the number is ours: docs/recipes.md says which are which.

_AUTOML = "google/automl efficientnetv2 (6a54c874)"  # EfficientNetV2's own code
_TPU = "tensorflow/tpu models/official/efficientnet (7dc921f8)"  # EfficientNet's own code
_V2 = "EfficientNetV2 (arXiv 2104.00298)"
_V1 = "EfficientNet (arXiv 1905.11946)"

_V2_CODE = Recipe(
    name="efficientnetv2-s-code",
    source=f"{_AUTOML}: effnetv2_configs.efficientnetv2_params, datasets.ImageNet, "
    "hparams.base_config, main.py",
    model="efficientnetv2-s",
    width=1,
    depth=1,
    weights="",
    epochs=350,
    min_steps=0,
    batch_size=4096,
    batch_size_first=0,
    gradient_accumulation_first=1,
    gradient_accumulation_last=1,
    phases=4,
    progressive_schedule="code",
    image_size_first=128,  # data.ibase: the line's foot, where no phase trains
    image_size_last=300,
    image_size_multiple=1,
    image_size_eval=384,
    randaugment_magnitude_first=5,
    randaugment_magnitude_last=10,
    mixup_first=0.0,
    mixup_last=0.0,
    cutmix_first=0.0,
    cutmix_last=0.0,
    dropout_first=0.2,  # constant: main.py deletes its list of rates
    dropout_last=0.2,
    drop_path_first=0.2,  # survival_prob 0.8
    drop_path_last=0.2,
    augment="randaugment",
    randaugment_layers=2,
    solarize_wraps=True,
    random_crop_min_area=0.05,  # preprocessing.preprocess_for_train
    flip=True,
    cutout=0.0,
    random_erasing_prob=0.0,
    interpolation="bilinear",
    crop_eval=0.0,  # preprocess_for_eval: the whole image from 320 px on
    loss="softmax",
    label_smoothing=0.1,
    class_weights="none",
    optimizer="rmsprop",
    learning_rate=0.016,
    learning_rate_schedule="exponential",
    warmup_epochs=5,
    decay_epochs=2.4,
    weight_decay=1e-5,
    weight_decay_mode="l2",
    weight_decay_on_biases=False,  # train.weight_decay_exclude
    zero_init_classifier=False,
    freeze="none",
    clip_norm=0.0,  # train.gclip
    ema_decay=0.9999,
    batch_norm_momentum=0.9,
    batch_norm_group_size=1024,  # utils.TpuBatchNormalization: groups of 8 cores; 4096 images on 32
    precision="bfloat16",
    steps_per_loop=100,
    seed=0,
)

_V2_PAPER = replace(
    _V2_CODE,
    source=f"{_V2}, section 5.1, Algorithm 1 and Table 6",
    progressive_schedule="paper",
    dropout_first=0.1,
    solarize_wraps=False,
    batch_norm_momentum=0.99,
)

# B0 to B3 of V2: "for fair comparison to EfficientNetV1", its images and AutoAugment.
_V2_SMALL_CODE = replace(
    _V2_CODE,
    augment="autoaugment",
    randaugment_magnitude_first=0,  # AutoAugment has its own
    randaugment_magnitude_last=0,
    random_crop_min_area=0.08,  # preprocess_legacy
    interpolation="bicubic",
)
_V2_SMALL_PAPER = replace(
    _V2_SMALL_CODE,
    source=f"{_V2}, section 6.1 (scaling down: no progressive learning)",
    phases=1,
    progressive_schedule="paper",
    solarize_wraps=False,
    batch_norm_momentum=0.99,
)

_V1_CODE = replace(
    _V2_SMALL_CODE,
    source=f"{_TPU}: main.py, efficientnet_builder.efficientnet_params, preprocessing.py",
    batch_size=2048,
    phases=1,
    weight_decay_on_biases=True,
    batch_norm_momentum=0.99,
    batch_norm_group_size=512,  # utils.TpuBatchNormalization: groups of max(8, cores/8), 32 cores
)
_V1_PAPER = replace(
    _V1_CODE,
    source=f"{_V1}, section 5.2; batch and epochs: its author, tensorflow/tpu#509 and #546",
    batch_size=4096,
    progressive_schedule="paper",
    solarize_wraps=False,
    batch_norm_group_size=1024,
)
_V1_AUTOML = replace(
    _V2_SMALL_CODE,
    source=f"{_AUTOML}: effnetv2_configs.efficientnetv1_config, main.py (train.isize 0.8)",
    phases=1,
)

# On ImageNet-21k: no noise at all in the code; the paper says of the settings only that they are
# largely those of ImageNet-1k.
_21K_CODE = replace(
    _V2_CODE,
    source=f"{_AUTOML}: datasets.ImageNet21k",
    epochs=60,
    phases=1,
    image_size_first=224,
    image_size_last=224,
    image_size_eval=224,
    randaugment_magnitude_first=0,
    randaugment_magnitude_last=0,
    dropout_first=1e-6,
    dropout_last=1e-6,
    drop_path_first=0.0,
    drop_path_last=0.0,
    augment="none",
    crop_eval=0.875,
    label_smoothing=0.0,
    learning_rate=0.008,
    learning_rate_schedule="cosine",
    warmup_epochs=1,
)

_FT1K_CODE = replace(
    _V2_CODE,
    source=f"{_AUTOML}: datasets.ImagenetFt, preprocessing.preprocess_for_finetune",
    weights="imagenet21k",
    epochs=15,
    min_steps=10_000,
    batch_size=512,
    phases=1,
    randaugment_magnitude_first=0,
    randaugment_magnitude_last=0,
    dropout_first=1e-6,
    dropout_last=1e-6,
    augment="none",
    random_crop_min_area=1.0,
    cutout=0.25,  # pad_size = image_size // 4
    learning_rate=0.0005,
    learning_rate_schedule="constant",
    warmup_epochs=1,
    ema_decay=0.9996,
    batch_norm_group_size=128,
)
_FT1K_PAPER = replace(
    _FT1K_CODE,
    source=f"{_V2}, section 5.2 (fine-tuning: 15 epochs, cosine)",
    min_steps=0,
    progressive_schedule="paper",
    learning_rate_schedule="cosine",
    batch_norm_momentum=0.99,
)
_TRANSFER_CODE = replace(_FT1K_CODE, weights="imagenet")
_TRANSFER_PAPER = replace(
    _FT1K_PAPER,
    source=f"{_V2}, section 5.3 (fixed 10,000 steps, from ImageNet-1k weights)",
    weights="imagenet",
    epochs=1,  # less than the steps below, on every set
    min_steps=10_000,
    weight_decay=0.0,
)


def _crop(size):
    """The official centre crop, as a share of the shorter side; rounded as in weight_sets.py."""
    return round(size / (size + 32), 4)


# fmt: off
_V2_CODE_ROWS = tuple(
    replace(_V2_CODE, name=f"{model}-code", model=model, image_size_last=size,
            image_size_eval=size_eval, randaugment_magnitude_last=magnitude, mixup_last=mix, cutmix_last=mix,
            dropout_first=dropout, dropout_last=dropout)
    for model, size, size_eval, dropout, magnitude, mix in (
        # effnetv2_configs.efficientnetv2_params
        #                    train eval dropout randaug mixup
        ("efficientnetv2-s",   300, 384, 0.2,     10,   0.0),
        ("efficientnetv2-m",   384, 480, 0.3,     15,   0.2),
        ("efficientnetv2-l",   384, 480, 0.4,     20,   0.5),
        ("efficientnetv2-xl",  384, 512, 0.4,     20,   0.5),
    )
)
_V2_PAPER_ROWS = tuple(
    replace(_V2_PAPER, name=f"{model}-paper", model=model, image_size_last=size,
            image_size_eval=size_eval, randaugment_magnitude_last=magnitude, mixup_last=mixup,
            dropout_last=dropout)
    for model, size, magnitude, mixup, dropout, size_eval in (
        # Table 6, "max"; "min" is 128, 5, 0 and 0.1 for all
        #                   size RandAug mixup dropout eval
        ("efficientnetv2-s", 300,   15,   0.0,   0.3,  384),
        ("efficientnetv2-m", 380,   20,   0.2,   0.4,  480),
        ("efficientnetv2-l", 380,   25,   0.5,   0.5,  480),
    )
)
_V2_SMALL = (
    # effnetv2_configs.efficientnetv2_params
    #                   train eval dropout
    ("efficientnetv2-b0", 192, 224, 0.2),
    ("efficientnetv2-b1", 192, 240, 0.2),
    ("efficientnetv2-b2", 208, 260, 0.3),
    ("efficientnetv2-b3", 240, 300, 0.3),
)
_V2_SMALL_CODE_ROWS = tuple(
    replace(_V2_SMALL_CODE, name=f"{model}-code", model=model, image_size_last=size,
            image_size_eval=size_eval, crop_eval=_crop(size_eval),
            dropout_first=dropout, dropout_last=dropout)
    for model, size, size_eval, dropout in _V2_SMALL
)
_V2_SMALL_PAPER_ROWS = tuple(
    replace(_V2_SMALL_PAPER, name=f"{model}-paper", model=model, image_size_first=size,
            image_size_last=size, image_size_eval=size_eval, crop_eval=_crop(size_eval),
            dropout_first=dropout, dropout_last=dropout)
    for model, size, size_eval, dropout in _V2_SMALL
)
_V1_SIZES = (
    # efficientnet_builder.efficientnet_params; the last column is automl's train.isize,
    # int(0.8 * eval) // 16 * 16
    #                  size dropout automl
    ("efficientnet-b0", 224, 0.2, 176),
    ("efficientnet-b1", 240, 0.2, 192),
    ("efficientnet-b2", 260, 0.3, 208),
    ("efficientnet-b3", 300, 0.3, 240),
    ("efficientnet-b4", 380, 0.4, 304),
    ("efficientnet-b5", 456, 0.4, 352),
    ("efficientnet-b6", 528, 0.5, 416),
    ("efficientnet-b7", 600, 0.5, 480),
)
_V1_ROWS = tuple(
    replace(base, name=f"{model}-{version}", model=model, image_size_eval=size,
            image_size_first=automl if version == "automl" else size,
            image_size_last=automl if version == "automl" else size,
            crop_eval=_crop(size), dropout_first=dropout, dropout_last=dropout)
    for version, base in (("paper", _V1_PAPER), ("code", _V1_CODE), ("automl", _V1_AUTOML))
    for model, size, dropout, automl in _V1_SIZES
)
_V1_RANDAUGMENT_ROWS = tuple(
    replace(row, name=f"{row.name}-randaugment", augment="randaugment", randaugment_magnitude_first=magnitude,
            randaugment_magnitude_last=magnitude, source=f"{_TPU}: README (RandAugment, N=2), main.py")
    for name, magnitude in (("efficientnet-b5-code", 17), ("efficientnet-b7-code", 28))
    for row in _V1_ROWS if row.name == name
)
# fmt: on

_21K_ROWS = (
    *(
        replace(_21K_CODE, name=f"{row.model}-21k-code", model=row.model)
        for row in (*_V2_SMALL_CODE_ROWS, *_V2_CODE_ROWS)
    ),
    *(
        replace(
            row,
            name=f"{row.model}-21k-paper",
            source=f"{_V2}, section 5.2 (60 epochs, cosine, labels that sum to 1) and Table 6",
            epochs=60,
            label_smoothing=0.0,
            learning_rate_schedule="cosine",
            warmup_epochs=1,
        )
        for row in _V2_PAPER_ROWS
    ),
)
_FT1K_ROWS = tuple(
    replace(
        base,
        name=f"{row.model}-21k-ft1k-{version}",
        model=row.model,
        image_size_first=row.image_size_eval // 16 * 16,  # main.py, train.isize 1.0
        image_size_last=row.image_size_eval // 16 * 16,
        image_size_eval=row.image_size_eval,
    )
    for version, base, rows in (
        ("code", _FT1K_CODE, (*_V2_SMALL_CODE_ROWS, *_V2_CODE_ROWS)),
        ("paper", _FT1K_PAPER, _V2_CODE_ROWS),
    )
    for row in rows
)
_TRANSFER_ROWS = tuple(
    replace(
        base,
        name=f"{row.model}-{data}-{version}",
        source=f"{_AUTOML}: datasets.{function}" if version == "code" else base.source,
        model=row.model,
        image_size_first=row.image_size_eval,
        image_size_last=row.image_size_eval,
        image_size_eval=row.image_size_eval,
    )
    for version, base in (("paper", _TRANSFER_PAPER), ("code", _TRANSFER_CODE))
    for row in _V2_PAPER_ROWS
    for data, function in (
        *(("cifar10", "Cifar10Ft"), ("cifar100", "Cifar100Ft")),
        *(("flowers", "FlowersFt"), ("cars", "CarsFt")),
    )
)


# --- ablations: what progressive learning is made of -------------------------------------------


def _fixed_noise(row):
    """The row with the last phase's regularisation in all phases."""
    return replace(
        row,
        randaugment_magnitude_first=row.randaugment_magnitude_last,
        mixup_first=row.mixup_last,
        dropout_first=row.dropout_last,
    )


def _ablations(adaptive, name, looks, sizes):
    """What `adaptive` is compared with: the one size that it ends with in `looks` phases, `sizes`
    random ones, and progressive ones, with its last phase's regularisation throughout; and random
    ones with regularisation by their size.
    """
    fixed = _fixed_noise(adaptive)
    at_random = {"progressive_schedule": "random", "phases": sizes}
    return (
        replace(
            fixed, name=f"{name}-fixed", phases=looks, image_size_first=adaptive.image_size_last
        ),
        replace(fixed, name=f"{name}-random", **at_random),
        replace(adaptive, name=f"{name}-random-adaptive", **at_random),
        replace(fixed, name=f"{name}-progressive"),
    )


_ABLATION_ROWS = _ablations(
    replace(_V2_PAPER_ROWS[0], source=f"{_V2}, section 6.3 and Table 13"),
    "efficientnetv2-s",
    looks=1,
    sizes=44,  # "every eight epochs", of 350
)

_CIFAR10 = replace(
    _DIGITS,
    name="cifar10-adaptive",
    source=f"this project: {_V2}, Table 13, in small: 2,000 images of CIFAR-10 on two CPU cores",
    width=0.25,
    depth=0.5,
    epochs=96,
    phases=4,
    image_size_first=56,  # 1.8 of the images' own 32: two pixels a side in the last stage
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
_CIFAR10_ROWS = (_CIFAR10, *_ablations(_CIFAR10, "cifar10", looks=4, sizes=12))


# --- derived: the published rows for one accelerator -------------------------------------------
# The learning rate is per 256 images, so that a smaller batch lowers it with no other number.


def _derived(row, where, **changes):
    return replace(
        row,
        name=f"{row.name}-{where}",
        source=f"derived by this project from {row.name}: batch for {where}, unmeasured",
        batch_norm_group_size=0,
        **changes,
    )


_BY_NAME = {
    row.name: row
    for row in (
        *(*_V1_ROWS, *_V1_RANDAUGMENT_ROWS),
        *(*_V2_SMALL_PAPER_ROWS, *_V2_PAPER_ROWS, *_V2_SMALL_CODE_ROWS, *_V2_CODE_ROWS),
        *(*_21K_ROWS, *_FT1K_ROWS, *_TRANSFER_ROWS, *_ABLATION_ROWS),
    )
}

# fmt: off
_DERIVED_ROWS = tuple(
    _derived(_BY_NAME[name], where, batch_size=batch, gradient_accumulation_first=first,
             gradient_accumulation_last=last, precision="float16" if where == "1gpu" else "bfloat16")
    for name, where, batch, first, last in (
        # 1gpu: one with 16 to 24 GB, float16 as main.py has it there. v5e8: eight cores of 16 GB.
        #                                            batch parts: first, last phase
        ("efficientnet-b0-code",            "1gpu",   256,  1, 1),
        ("efficientnetv2-b0-code",          "1gpu",   256,  1, 1),
        ("efficientnetv2-s-paper",          "1gpu",   256,  1, 4),
        ("efficientnetv2-s-code",           "1gpu",   256,  1, 4),
        ("efficientnetv2-s-21k-ft1k-paper", "1gpu",   128,  4, 4),
        ("efficientnetv2-s-cifar10-paper",  "1gpu",   128,  4, 4),
        ("efficientnetv2-b0-code",          "v5e8",  1024,  1, 1),
        ("efficientnetv2-s-paper",          "v5e8",  1024,  1, 2),
        ("efficientnetv2-m-paper",          "v5e8",  1024,  1, 4),
    )
)
# fmt: on

RECIPES = {
    row.name: row
    for row in (
        *(_DIGITS, _PHOTOS, _FINETUNE, *_CIFAR10_ROWS),
        *(*_BY_NAME.values(), *_DERIVED_ROWS),
    )
}


def find_recipe(name):
    """The :class:`Recipe` of that name. Without its version a published one is the paper's, or the
    code's where the paper has none. ``ValueError`` with the nearest names otherwise.

    >>> find_recipe("efficientnetv2-m").name, find_recipe("efficientnetv2-xl").name
    ('efficientnetv2-m-paper', 'efficientnetv2-xl-code')
    """
    for known in (name, f"{name}-paper", f"{name}-code"):
        if known in RECIPES:
            return RECIPES[known]
    near = difflib.get_close_matches(str(name).lower(), RECIPES, n=5, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    raise ValueError(
        f"Unknown recipe {name!r}.{hint} docs/recipes.md lists all {len(RECIPES)}; for images of "
        "your own take 'photos' (from scratch) or 'finetune'"
    )
