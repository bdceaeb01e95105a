"""A picture of what a recipe makes of the training images: a row for every phase."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.augmentation import targets
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.recipes.phases import make_phases
from tpu_train.training.step import mix

_CELL, _CAPTION, _HEADING, _MARGIN = 1.5, 0.22, 0.34, 0.12  # inches
_LETTERS = 22  # of a caption, that a cell has room for
_DPI = 110


def draw_gallery(recipe, source, path, *, images=8):
    """Writes a PNG with the first `images` images of every phase, as the network gets them.

    They are the ones that a run would begin the phase with: cropped, augmented, and mixed with
    their neighbours. Each stands over its labels and their weights. Drawn by keras_cv's
    ``plot_image_gallery``. Raises ``ValueError`` for an odd or too small number of images, a `path`
    that cannot be written to, or a missing keras_cv.
    """
    path = os.fspath(path)
    if images < 2 or images % 2:
        raise ValueError(f"images {images} cannot be paired for mixing: give an even number")
    if not path.lower().endswith(".png"):
        raise ValueError(f"{path} is no name for the picture: give one that ends in .png")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is not there: make it, or give another place for the picture")
    visualization = _visualization()

    all_phases = make_phases(recipe, source.examples)
    side = max(phase.image_size for phase in all_phases)
    rows, captions = [], []
    for phase in all_phases:
        pixels, weights = first_images(recipe, source, phase, images)
        rows.append(tf.image.resize(pixels, [side, side], "nearest").numpy())
        captions.append([_caption(source.classes, w) for w in weights])
    figure = visualization.plot_image_gallery(
        np.concatenate(rows), value_range=(0, 255), rows=len(rows), cols=images
    )
    _lay_out(figure, [_heading(recipe, phase) for phase in all_phases], captions)
    aside = path + ".part"
    try:
        figure.savefig(aside, format="png", dpi=_DPI, facecolor="white")
        os.replace(aside, path)
    finally:
        _close(figure)
        if os.path.exists(aside):
            os.remove(aside)


def first_images(recipe, source, phase, images):
    """(uint8 (images, size, size, 3), float32 (images, classes)) that a phase begins with.

    After mixing; the weights of the labels are without smoothing.
    """
    phase = dataclasses.replace(phase, batch_size=images)
    recipe = dataclasses.replace(recipe, label_smoothing=0.0)
    (batch,) = training_batches(
        source,
        recipe,
        phase,
        first_step=phase.first_step,
        end_step=phase.first_step + 1,
        replicas=1,
    )
    if "target" in batch:  # keras_cv has mixed them
        return batch["image"], batch["target"].numpy()
    pixels, weights = mix(batch, targets(batch["label"], len(source.classes), recipe))
    return tf.cast(tf.round(pixels), tf.uint8), weights.numpy()


def _visualization():
    try:
        import matplotlib

        matplotlib.use("Agg")  # a file, and no window
        from keras_cv import visualization
    except ImportError as error:
        raise ValueError(
            f"the gallery is drawn by keras_cv, which cannot be imported here ({error}): "
            "pip install keras-cv matplotlib"
        ) from error
    return visualization


def _close(figure):
    from matplotlib import pyplot

    pyplot.close(figure)


def _heading(recipe, phase):
    policy = {
        "randaugment": f"RandAugment {recipe.randaugment_layers} x {phase.magnitude:.3g}",
        "keras_cv": f"keras_cv's RandAugment {recipe.randaugment_layers} x {phase.magnitude:.3g}",
        "autoaugment": "AutoAugment v0",
        "none": "no policy",
    }[recipe.augment]
    return (
        f"phase {phase.number}:  {phase.image_size} px,  {policy},  mixup {phase.mixup:.3g},  "
        f"CutMix {phase.cutmix:.3g}"
    )


def _caption(classes, weights):
    """The one or two heaviest labels, with their weights where there are two."""
    best = [i for i in np.argsort(-weights)[:2] if weights[i] >= 0.005]
    if len(best) == 1:
        return _short(classes[best[0]], _LETTERS)
    room = (_LETTERS - 8) // 2
    return " + ".join(
        f".{min(99, round(100 * weights[i])):02d} {_short(classes[i], room)}" for i in best
    )


def _short(name, letters):
    return name if len(name) <= letters else name[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _lay_out(figure, headings, captions):
    """Gives every row of a gallery a heading and every image a caption."""
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
