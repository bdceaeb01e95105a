"""Builds the network of a recipe: logits for training, class scores for export."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.weight_transfer import set_weights
from tpu_train.recipes.schema import Recipe, model_kind
from tpu_train.training.imported_network import (
    check_function,
    network_of_file,
    network_of_function,
)
from tpu_train.training.imported_weights import classifier_of
from tpu_train.training.model_source import check_source, variant_of

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def check(recipe: Recipe) -> None:
    """Raises ``ValueError`` if the recipe's model or its initial weights do not exist."""
    check_source(recipe)
    if model_kind(recipe.model) == "function":
        check_function(recipe.model)


def training_network(recipe: Recipe, classes: int) -> keras.Model:
    """A model from RGB in [0, 255], of any size, to logits (batch, classes).

    It computes in the recipe's precision and starts from the recipe's weights. With
    `zero_init_classifier`, its classifier is zero. Keras's global dtype policy stays as it was.
    """
    network = _build(recipe, classes, None, None, _POLICIES[recipe.precision])
    if recipe.zero_init_classifier:
        classifier = classifier_of(network)
        classifier.set_weights([w * 0 for w in classifier.get_weights()])
    return network


def exported_network(recipe: Recipe, classes: int, weights: Sequence[np.ndarray]) -> keras.Model:
    """A float32 model of stock layers from RGB of the evaluation size to class scores.

    `weights` are in the order of those of :func:`training_network`.
    """
    # The activation that belongs to a loss has the loss's name.
    network = _build(recipe, classes, recipe.image_size_eval, recipe.loss, "float32")
    set_weights(network, weights)
    return network


def _build(recipe, classes, size, activation, policy):
    kind = model_kind(recipe.model)
    sizes = {recipe.image_size_first, recipe.image_size_last, recipe.image_size_eval}
    sizes = sorted(sizes) if size is None else [size]
    with _dtype_policy(policy):
        if kind == "function":
            weights = "" if activation else recipe.weights  # the export gets the trained ones
            network = network_of_function(
                recipe.model, classes, sizes, weights, any_size=size is None
            )
            return _with_activation(network, activation)
        if kind == "file":
            network = network_of_file(recipe.model, classes, sizes, any_size=size is None)
            return _with_activation(network, activation)
        with warnings.catch_warnings():  # about the new classifier, which is trained next
            warnings.filterwarnings("ignore", ".*the classifier of .* starts at random")
            return create_model(
                variant_of(recipe),
                weights=recipe.weights or None,  # for the export, too: they set the normalization
                classes=classes,
                input_shape=(size, size, 3),
                classifier_activation=activation,
                dropout_rate=max(recipe.dropout_first, recipe.dropout_last),
                drop_path_rate=max(recipe.drop_path_first, recipe.drop_path_last),
                preprocessing=Preprocessing(
                    recipe.image_size_eval, recipe.crop_eval or None, recipe.interpolation
                ),
            )


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras's global dtype policy and restores the previous one."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _with_activation(network, activation):
    if activation is None:
        return network
    outputs = keras.layers.Activation(activation, dtype="float32")(network.outputs[0])
    return keras.Model(network.inputs[0], outputs, name=network.name)
