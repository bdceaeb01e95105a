"""The float32 copy of a mixed-precision model."""

from __future__ import annotations

from keras_effnet.model_graph import flat_layers, graph_of
from keras_effnet.weight_transfer import copy_weights

_HALF = ("float16", "bfloat16")


def in_float32(model):
    """The model if all its layers compute in float32, nested ones too; else a float32 copy."""
    layers = flat_layers(model) if model.layers else ()  # a SavedModel has none
    if not any(layer.compute_dtype in _HALF for layer, _ in layers):
        return model
    import keras

    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")  # of layers that custom layers create
    try:
        clone = _clone(model)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    copy_weights(model, clone)
    return clone


def _clone(model):
    import keras

    def copy(layer):
        if graph_of(layer) is not None:
            return _clone(layer)
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    return keras.models.clone_model(model, clone_function=copy)
