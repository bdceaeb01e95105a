"""Recipes of Noisy Student training (arXiv 1911.04252). No TensorFlow.

A student learns from labeled images and from images that a teacher has labeled. The official code
is google-research/noisystudent (c5ae6524). Where neither it nor the paper states a number, the row
has that of EfficientNet's official code, or this project's, which docs/recipes.md names.
"""

from __future__ import annotations

from dataclasses import replace

from tpu_train.recipes.project import SMALL_DATA
from tpu_train.recipes.published import PUBLISHED

_ROWS = {row.name: row for row in (*PUBLISHED, *SMALL_DATA)}
_PAPER = "Noisy Student (arXiv 1911.04252)"
_CODE = "google-research/noisystudent (c5ae6524): local_scripts/imagenet/train_offline.sh"
_LABELED_BATCH = 2048
_CORES_PER_GROUP, _CORES = 8, 32  # of batch norm, as in EfficientNet's official code


def _student(size, *, base, dropout, ratio, magnitude, epochs, **changes):
    return replace(
        base,
        name=f"noisy-student-{size}",
        source=f"{_PAPER}, section 3.1; {_CODE}, main.py, efficientnet_builder.py",
        epochs=epochs,
        batch_size=_LABELED_BATCH,
        progressive_schedule="paper",
        augment="randaugment" if magnitude else "none",
        randaugment_magnitude_first=magnitude,
        randaugment_magnitude_last=magnitude,
        dropout_first=dropout,
        dropout_last=dropout,
        unlabeled_ratio=float(ratio),
        solarize_wraps=False,
        pseudo_labels="soft",
        teacher_temperature=1.0,
        decay_epochs=2.4 * epochs / 350,  # decays as often in 700 epochs
        batch_norm_group_size=_LABELED_BATCH * (1 + ratio) * _CORES_PER_GROUP // _CORES,
        **changes,
    )


# fmt: off
_STUDENTS = tuple(
    _student(size, base=_ROWS[f"efficientnet-{size}-code"], dropout=dropout, ratio=ratio,
             magnitude=magnitude, epochs=epochs)
    for size, ratio, magnitude, dropout, epochs in (
        # train_offline.sh; dropout of efficientnet_builder.efficientnet_params
        #    ratio RandAug dropout epochs
        ("b0",   1,    0,    0.2,   700),
        ("b1",   3,    0,    0.2,   700),
        ("b2",   3,    6,    0.3,   700),
        ("b3",   3,   12,    0.3,   700),
        ("b4",   3,   15,    0.4,   700),
        ("b5",   3,   18,    0.4,   350),
        ("b6",   3,   24,    0.5,   350),
        ("b7",   3,   27,    0.5,   350),
    )
)
# fmt: on

# The paper's last model of L2 has a ratio of 28: --unlabeled_ratio=28
# --batch_norm_group_size=14848.
_L2 = _student(
    "l2",
    base=_ROWS["efficientnet-b7-code"],
    dropout=0.5,
    ratio=14,
    magnitude=27,
    epochs=350,
    model="efficientnet-l2",
    image_size_first=475,
    image_size_last=475,
    image_size_eval=475,
    crop_eval=round(475 / (475 + 32), 4),
)

# FixRes: 1.5 epochs at the size of the evaluation, on labeled images without augmentation, with
# the shallow layers fixed. How many are, and the learning rate, neither states.
_L2_FIXRES = replace(
    _ROWS["efficientnetv2-s-21k-ft1k-code"],
    name="noisy-student-l2-fixres",
    source=f"{_PAPER}, section 3.1: the last training of L2, from --weights=L2/model.keras",
    model="efficientnet-l2",
    weights="",
    epochs=1.5,
    min_steps=0,
    progressive_schedule="paper",
    image_size_first=800,
    image_size_last=800,
    image_size_eval=800,
    dropout_first=0.5,
    dropout_last=0.5,
    freeze="block6",
    flip=False,
    cutout=0.0,
    solarize_wraps=False,
    interpolation="bicubic",
    crop_eval=round(800 / (800 + 32), 4),
    batch_norm_momentum=0.99,
)

_FINETUNE = replace(
    _ROWS["finetune"],
    name="noisy-student-finetune",
    source="this project: finetune, with pseudo-labeled photos (docs/noisy-student.md)",
    unlabeled_ratio=3.0,
    # Chosen with 40 images per class and --threshold=0.7 (docs/results/noisy-student.md).
    pseudo_labels="hard",
    augment="randaugment",
    randaugment_magnitude_first=4,
    randaugment_magnitude_last=4,
)

NOISY_STUDENT = (*_STUDENTS, _L2, _L2_FIXRES, _FINETUNE)
