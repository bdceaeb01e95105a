"""Exports the EMA weights of a run as a model of stock layers."""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_effnet.atomic_write import replacing
from keras_effnet.weight_transfer import set_weights
from tpu_train.recipes.schema import Recipe
from tpu_train.training import model_factory


def make_export(recipe: Recipe, classes: int, ema_model: keras.Model) -> Callable[[str], None]:
    """A function that writes the weights of `ema_model` to a path, in a model of stock layers.

    The model takes RGB of the evaluation size and returns class scores.
    """
    exported = None

    def export(path):
        nonlocal exported
        weights = ema_model.get_weights()
        if exported is None:
            exported = model_factory.exported_network(recipe, classes, weights)
        set_weights(exported, weights)
        with replacing(path) as temporary:
            exported.save(temporary)

    return export
