"""A picture of the augmented training images of a recipe, one row for each phase."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import tensorflow as tf

from keras_effnet.atomic_write import replacing
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.keras_cv_layers import plot_images
from tpu_train.input_pipeline.mixup import apply_mixing
from tpu_train.input_pipeline.picture_path import check_picture
from tpu_train.input_pipeline.targets import images_of_epoch, soft_targets
from tpu_train.recipes.phases import Phase, make_phases
from tpu_train.recipes.schema import Recipe

_CELL, _CAPTION, _HEADING, _MARGIN = 1.5, 0.22, 0.34, 0.12  # inches
_CAPTION_LENGTH = 22  # characters that fit below an image
_DPI = 110


def draw_preview(
    recipe: Recipe, source: ImageSource, path: str | os.PathLike[str], *, images: int = 8
) -> None:
    """Writes a PNG of the first `images` training images of every phase, as the network sees them.

    They are cropped, augmented and mixed with their neighbors; below each are its labels and their
    weights. Raises ``ValueError`` for an odd or too small number of images, a `path` that cannot be
    written to, or a missing keras_cv, which draws them.
    """
    path = os.fspath(path)
    check_picture(path, images)
    source = images_of_epoch(source, recipe)
    phases = make_phases(recipe, source.examples)
    side = max(phase.image_size for phase in phases)
    rows, captions = [], []
    for phase in phases:
        pixels, weights = first_images(recipe, source, phase, images)
        rows.append(tf.image.resize(pixels, [side, side], "nearest").numpy())
        captions.append([_caption(source.classes, w) for w in weights])
    figure = plot_images(np.concatenate(rows), len(rows), images)
    from matplotlib import pyplot  # here: plot_images says what is missing

    try:
        _lay_out(figure, [_heading(recipe, phase) for phase in phases], captions)
        with replacing(path) as temporary:
            mark = {"Software": "effnet-train preview"}  # cli/outputs.py looks for it
            figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white", metadata=mark)
    finally:
        pyplot.close(figure)


def first_images(
    recipe: Recipe, source: ImageSource, phase: Phase, images: int
) -> tuple[tf.Tensor, np.ndarray]:
    """The first images of a phase after mixing, and their label weights without smoothing.

    Of shapes (images, size, size, 3), uint8, and (images, classes), float32.
    """
    phase = dataclasses.replace(phase, batch_size=images, unlabeled=0, accumulation=1)
    recipe = dataclasses.replace(recipe, label_smoothing=0.0)  # for keras_cv's targets
    (batch,) = training_batches(
        source,
        recipe,
        phase,
        first_step=phase.first_step,
        end_step=phase.first_step + 1,
        replicas=1,
    )
    if "target" in batch:  # mixed by keras_cv
        return batch["image"], batch["target"].numpy()
    targets = soft_targets(batch["label"], len(source.classes), smoothing=0.0, loss=recipe.loss)
    pixels, weights = apply_mixing(batch, targets)
    return tf.cast(tf.round(pixels), tf.uint8), weights.numpy()


def _heading(recipe, phase):
    policy = {
        "randaugment": f"RandAugment {recipe.randaugment_layers} x {phase.magnitude:.3g}",
        "keras_cv": f"keras_cv's RandAugment {recipe.randaugment_layers} x {phase.magnitude:.3g}",
        "autoaugment": "AutoAugment v0",
        "trivialaugment": "TrivialAugment",
        "none": "no augmentation policy",
    }[recipe.augment]
    return (
        f"phase {phase.number}:  {phase.image_size} px,  {policy},  mixup {phase.mixup:.3g},  "
        f"CutMix {phase.cutmix:.3g}"
    )


def _caption(classes, weights):
    """The one or two labels of the largest weight, with their weights if there are two."""
    largest = [i for i in np.argsort(-weights)[:2] if weights[i] >= 0.005]
    if len(largest) == 1:
        return _shorten(classes[largest[0]], _CAPTION_LENGTH)
    length = (_CAPTION_LENGTH - 8) // 2
    return " + ".join(
        f".{min(99, round(100 * weights[i])):02d} {_shorten(classes[i], length)}" for i in largest
    )


def _shorten(name, length):
    return name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _lay_out(figure, headings, captions):
    """Adds a heading to every row of the figure and a caption to every image."""
    rows, columns = len(captions), len(captions[0])
    row_height = _HEADING + _CELL + _CAPTION
    width, height = 2 * _MARGIN + columns * _CELL, _MARGIN + rows * row_height
    figure.set_layout_engine("none")
    figure.set_size_inches(width, height)
    for row in range(rows):
        top = height - row * row_height - _HEADING
        figure.text(_MARGIN / width, (top + 0.08) / height, headings[row], fontsize=10)
        for column in range(columns):
            axes = figure.axes[row * columns + column]
            axes.set_position(
                [
                    (_MARGIN + column * _CELL) / width,
                    (top - _CELL) / height,
                    0.97 * _CELL / width,
                    0.97 * _CELL / height,
                ],
                which="both",
            )
            axes.text(
                *(0.5, -0.03, captions[row][column]),
                **{"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 7},
            )
