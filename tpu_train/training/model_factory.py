"""Builds the network of a recipe: logits for training, class scores for export."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.scaling import scale
from keras_effnet.variant_lookup import find_variant
from keras_effnet.weight_transfer import set_weights
from tpu_train.recipes.schema import Recipe

_CONTRACT = (
    "it must be a function with keras.applications' arguments weights, input_tensor, classes and "
    "classifier_activation, which returns a keras.Model from pixels in [-1, 1], of any image size, "
    "to logits (batch, classes), preferably one that begins at input_tensor"
)
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def check(recipe: Recipe) -> None:
    """Raises ``ValueError`` if the recipe's model or its initial weights do not exist."""
    if ":" not in recipe.model:
        resolve_weights(_variant(recipe).name, recipe.weights or None)
        return
    _import_function(recipe.model)
    if (recipe.width, recipe.depth) != (1, 1):
        raise ValueError(
            f"width {recipe.width} and depth {recipe.depth} scale networks of this package only; "
            f"leave both at 1 for {recipe.model}"
        )
    if recipe.weights:
        raise ValueError(
            f"weights {recipe.weights!r} belong to networks of this package, not to "
            f"{recipe.model}: leave --weights out"
        )


def training_network(recipe: Recipe, classes: int) -> keras.Model:
    """A model from RGB in [0, 255], of any size, to logits (batch, classes).

    It computes in the recipe's precision and starts from the recipe's weights. With
    `zero_init_classifier`, its classifier is zero. Keras's global dtype policy stays as it was.
    """
    network = _build(recipe, classes, None, None, _POLICIES[recipe.precision])
    if recipe.zero_init_classifier:
        classifier = network.layers[-1]
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
    with _dtype_policy(policy):
        if ":" in recipe.model:
            sizes = {recipe.image_size_first, recipe.image_size_last, recipe.image_size_eval}
            return _imported_network(recipe.model, classes, size, activation, sorted(sizes))
        with warnings.catch_warnings():  # about the new classifier, which is trained next
            warnings.filterwarnings("ignore", ".*the classifier of .* starts at random")
            return create_model(
                _variant(recipe),
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


def _variant(recipe):
    if (recipe.width, recipe.depth) == (1, 1):
        return find_variant(recipe.model)
    return scale(recipe.model, width=recipe.width, depth=recipe.depth)


def _imported_network(name, classes, size, activation, sizes):
    """Calls ``module:function`` with keras.applications' arguments, on pixels in [-1, 1]."""
    inputs = keras.Input((size, size, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    network = _import_function(name)(
        weights=None, input_tensor=pixels, classes=classes, classifier_activation=None
    )
    if not isinstance(network, keras.Model):
        raise ValueError(f"model {name!r} returned {type(network).__name__}: {_CONTRACT}")
    try:
        return _with_activation(inputs, network.output, activation, network.name)
    except ValueError:  # the function has not used input_tensor
        return _with_activation(
            inputs, _connect(name, network, pixels, sizes), activation, network.name
        )


def _with_activation(inputs, outputs, activation, name):
    if activation is not None:
        outputs = keras.layers.Activation(activation, dtype="float32")(outputs)
    # A new model: the function's own takes its input as a list of one tensor.
    return keras.Model(inputs, outputs, name=name)


def _connect(name, network, pixels, sizes):
    """The output of a network that has an input layer, with its layers on `pixels`, not nested.

    The network must accept images of all `sizes`.
    """
    try:
        for size in sizes:
            network.call(keras.Input((size, size, 3)))
        return network.call(pixels)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"model {name!r} has an input of shape {network.input_shape[1:]} and does not accept "
            f"images of {' and '.join(map(str, sizes))} px: {_CONTRACT}"
        ) from error


def _import_function(name):
    module, _, function = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), function)
        inspect.signature(function).bind(
            weights=None, input_tensor=None, classes=2, classifier_activation=None
        )
        return function
    except TypeError as error:
        raise ValueError(f"model {name!r} cannot be called ({error}): {_CONTRACT}") from error
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {name!r} cannot be imported ({error}): give a name of `effnet models`, or "
            "module:function with keras.applications' arguments, e.g. keras.applications:ResNet50"
        ) from error
