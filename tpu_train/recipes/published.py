"""Published recipes: the EfficientNet papers' rows and the official code's rows. No TensorFlow.

Every network has two versions. Where a paper does not state a number, its row has the number of
the official code; where neither states it, the number is this project's. docs/recipes.md names
them. A row is complete only after `replace`: ``effnet-train --recipe=NAME --show`` prints it.
"""

from __future__ import annotations

from dataclasses import replace

from tpu_train.recipes.schema import DEFAULT, Recipe

_AUTOML = "google/automl efficientnetv2 (6a54c874)"  # the official code of EfficientNetV2
_TPU = "tensorflow/tpu models/official/efficientnet (7dc921f8)"  # the official code of EfficientNet
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
    image_size_first=128,  # data.ibase: where the ramp starts; no phase trains at this size
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
    freeze="none",
    augment="randaugment",
    randaugment_layers=2,
    solarize_wraps=True,
    random_crop_min_area=0.05,  # preprocessing.preprocess_for_train
    flip=True,
    vertical_flip=False,
    quarter_turns=False,
    color_jitter=0.0,
    cutout=0.0,
    random_erasing_prob=0.0,
    interpolation="bilinear",
    crop_eval=0.0,  # preprocess_for_eval: no crop from 320 px on
    ignore_exif=True,  # tf.image.decode_jpeg does
    loss="softmax",
    label_smoothing=0.1,
    class_weights="none",
    oversample=False,
    unlabeled_ratio=0.0,
    pseudo_labels="soft",
    teacher="",
    teacher_temperature=1.0,
    teacher_weight=0.5,
    optimizer="rmsprop",
    learning_rate=0.016,
    momentum=DEFAULT,
    rho=DEFAULT,
    beta1=DEFAULT,
    beta2=DEFAULT,
    epsilon=DEFAULT,
    learning_rate_schedule="exponential",
    warmup_epochs=5,
    decay_epochs=2.4,
    decay_factor=0.97,
    plateau_patience=5,
    early_stopping_patience=0,
    early_stopping_metric="loss",
    layer_decay=1.0,
    weight_decay=1e-5,
    weight_decay_mode="l2",
    weight_decay_on_biases=False,  # train.weight_decay_exclude
    zero_init_classifier=False,
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

# V2-B0 to B3 use EfficientNetV1's preprocessing and AutoAugment, "for fair comparison".
_V2_SMALL_CODE = replace(
    _V2_CODE,
    augment="autoaugment",
    randaugment_magnitude_first=0,  # AutoAugment's policy has fixed magnitudes
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

# On ImageNet-21k the code uses no regularization; of its settings the paper states only that they
# are largely those of ImageNet-1k.
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
_TRANSFER_CODE = replace(
    _FT1K_CODE,
    source=f"{_AUTOML}: datasets.Cifar10Ft, Cifar100Ft, FlowersFt, CarsFt",
    weights="imagenet",
)
_TRANSFER_PAPER = replace(
    _FT1K_PAPER,
    source=f"{_V2}, section 5.3 (fixed 10,000 steps, from ImageNet-1k weights)",
    weights="imagenet",
    epochs=1,  # on every data set, min_steps is larger
    min_steps=10_000,
    weight_decay=0.0,
)


def _crop(size):
    """The official center crop, as a fraction of the shorter side; rounded as in registry.py."""
    return round(size / (size + 32), 4)


# fmt: off
_V2_CODE_ROWS = tuple(
    replace(_V2_CODE, name=f"{model}-code", model=model, image_size_last=size,
            image_size_eval=size_eval, randaugment_magnitude_last=magnitude,
            mixup_last=mix, cutmix_last=mix, dropout_first=dropout, dropout_last=dropout)
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
    replace(row, name=f"{row.name}-randaugment", augment="randaugment",
            source=f"{_TPU}: README (RandAugment, N=2), main.py",
            randaugment_magnitude_first=magnitude, randaugment_magnitude_last=magnitude)
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
        name=f"{row.model}-transfer-{version}",
        model=row.model,
        image_size_first=row.image_size_eval,
        image_size_last=row.image_size_eval,
        image_size_eval=row.image_size_eval,
    )
    for version, base in (("paper", _TRANSFER_PAPER), ("code", _TRANSFER_CODE))
    for row in _V2_PAPER_ROWS
)

PUBLISHED = (
    *(*_V1_ROWS, *_V1_RANDAUGMENT_ROWS),
    *(*_V2_SMALL_PAPER_ROWS, *_V2_PAPER_ROWS, *_V2_SMALL_CODE_ROWS, *_V2_CODE_ROWS),
    *(*_21K_ROWS, *_FT1K_ROWS, *_TRANSFER_ROWS),
)
