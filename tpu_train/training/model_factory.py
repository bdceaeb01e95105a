"""The network of a recipe: to train (logits) and to export (scores); ours or anybody's."""

import importlib
import warnings

import keras

from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.scaling import scale
from keras_effnet.variants import find_variant

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def check(recipe):
    """Raises ``ValueError`` for a model or weights that are not there."""
    if ":" not in recipe.model:
        resolve_weights(_variant(recipe).name, recipe.weights or None)
        return
    _function(recipe.model)
    if (recipe.width, recipe.depth) != (1, 1):
        raise ValueError(
            f"width {recipe.width} and depth {recipe.depth} scale this package's networks; "
            f"{recipe.model} is not one: leave them at 1"
        )
    if recipe.weights:
        raise ValueError(
            f"weights {recipe.weights!r} are of this package's networks, not of {recipe.model}: "
            "leave --weights out"
        )


def training_network(recipe, classes):
    """A model from RGB in [0, 255] of any size to logits (batch, classes).

    It computes in the recipe's precision and starts from the recipe's weights; with `zero_init_classifier` its
    classifier is 0.
    """
    network = _build(recipe, classes, None, None, _POLICIES[recipe.precision])
    if recipe.zero_init_classifier:
        head = network.layers[-1]
        head.set_weights([w * 0 for w in head.get_weights()])
    return network


def exported_network(recipe, classes, weights):
    """A float32 model from RGB of the evaluation's size to scores, of stock layers, with `weights`.

    `weights` is a list of arrays in the order of :func:`training_network`'s.
    """
    # The activation that belongs to a loss has its name.
    network = _build(recipe, classes, recipe.image_size_eval, recipe.loss, "float32")
    network.set_weights(weights)
    return network


def _build(recipe, classes, size, activation, policy):
    drop_path_rate = max(recipe.drop_path_first, recipe.drop_path_last)
    keras.mixed_precision.set_global_policy(policy)
    try:
        if ":" in recipe.model:
            return _foreign(recipe.model, classes, size, activation)
        with warnings.catch_warnings():  # of a new classifier: it is about to be trained
            warnings.filterwarnings("ignore", ".*the classifier of .* starts at random")
            return create_model(
                _variant(recipe),
                weights=recipe.weights or None,  # also for the export: they say how to normalise
                classes=classes,
                input_shape=(size, size, 3),
                classifier_activation=activation,
                dropout_rate=max(recipe.dropout_first, recipe.dropout_last),
                drop_path_rate=drop_path_rate,
                preprocessing=Preprocessing(
                    recipe.image_size_eval, recipe.crop_eval or None, recipe.interpolation
                ),
            )
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _variant(recipe):
    """The recipe's network; scaled, a variant that no weights are published for."""
    if (recipe.width, recipe.depth) == (1, 1):
        return find_variant(recipe.model)
    return scale(recipe.model, width=recipe.width, depth=recipe.depth)


def _foreign(name, classes, size, activation):
    """What ``module:function``, with keras.applications' arguments, builds on pixels in [-1, 1]."""
    inputs = keras.Input((size, size, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    network = _function(name)(
        weights=None, input_tensor=pixels, classes=classes, classifier_activation=None
    )
    outputs = network.output
    if activation is not None:
        outputs = keras.layers.Activation(activation, dtype="float32")(outputs)
    return keras.Model(inputs, outputs, name=network.name)  # its own takes a list of one input


def _function(name):
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {name!r} cannot be imported ({error}): give a name of `effnet models`, or "
            "module:function with keras.applications' arguments, e.g. keras.applications:ResNet50"
        ) from error
