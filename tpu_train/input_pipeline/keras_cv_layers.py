"""Augmentation and plots by keras_cv; the only importer of keras_cv."""

from __future__ import annotations

from typing import Callable

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.augmentation import MAX_LEVEL
from tpu_train.input_pipeline.targets import soft_targets
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe


def make_augmentation(recipe: Recipe, phase: Phase, classes: int) -> Callable:
    """A function from a batch ``{"image", "label"}`` to ``{"image": uint8, "target": float32}``.

    Applies keras_cv's RandAugment, then its MixUp or CutMix (with both, one of the two for the
    batch), at the phase's magnitude (10 and above are keras_cv's 1.0) and alphas. `target`, of
    shape (batch, classes), is smoothed and mixed. keras_cv does not expose the state of its random
    numbers, so a resumed run is not bit-exact. Call it outside ``strategy.scope()``. Raises
    ``ValueError`` if keras_cv cannot be imported.
    """
    try:
        from keras_cv import layers
    except ImportError as error:
        raise ValueError(
            f"{_import_error('augment=keras_cv', error)}, or use --augment=randaugment"
        ) from error
    steps, mixers = [], []
    if phase.magnitude and recipe.randaugment_layers:
        steps.append(
            layers.RandAugment(
                value_range=(0, 255),
                augmentations_per_image=recipe.randaugment_layers,
                magnitude=min(1.0, phase.magnitude / MAX_LEVEL),
                seed=recipe.seed,
            )
        )
    if phase.mixup:
        mixers.append(layers.MixUp(alpha=phase.mixup, seed=recipe.seed))
    if phase.cutmix:
        mixers.append(layers.CutMix(alpha=phase.cutmix, seed=recipe.seed))
    if len(mixers) == 2:
        mixers = [layers.RandomChoice(mixers, batchwise=True, seed=recipe.seed)]
    steps += mixers

    def augment(batch):
        augmented = {
            "images": tf.cast(batch["image"], tf.float32),
            "labels": soft_targets(
                batch["label"], classes, smoothing=recipe.label_smoothing, loss=recipe.loss
            ),
        }
        for step in steps:
            augmented = step(augmented, training=True)
        images = tf.clip_by_value(tf.round(augmented["images"]), 0, 255)
        return {
            "image": tf.ensure_shape(tf.cast(images, tf.uint8), batch["image"].shape),
            "target": tf.ensure_shape(augmented["labels"], [batch["image"].shape[0], classes]),
        }

    return augment


def plot_images(images: np.ndarray, rows: int, columns: int):
    """A Matplotlib figure of uint8 images (rows * columns, size, size, 3), drawn without a window.

    Raises ``ValueError`` if keras_cv or Matplotlib cannot be imported.
    """
    try:
        import matplotlib
        from keras_cv import visualization
    except ImportError as error:
        raise ValueError(_import_error("the preview", error, "matplotlib")) from error
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    try:
        return visualization.plot_image_gallery(
            images, value_range=(0, 255), rows=rows, cols=columns
        )
    finally:
        matplotlib.use(backend, force=False)  # the caller's


def _import_error(user, error, *packages):
    return (
        f"{user} needs keras_cv, which cannot be imported ({error}): "
        f"pip install {' '.join(['keras-cv', *packages])}"
    )
