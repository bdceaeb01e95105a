"""Moves weights between models with everything that their layers derive from them.

``set_weights`` alone is not enough: a ``Normalization`` layer that was adapted computes with
constants that it derives from its weights, and derives them again only when a file is loaded. So
weights move here as by saving and loading, but in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_effnet.model_graph import inner_layers


def copy_weights(source, target) -> None:
    """Gives a layer or model the state of another one with the same layers in the same order.

    The state is what a layer's ``save_own_variables`` stores in a file, and its
    ``load_own_variables`` restores, the vocabulary that it was adapted to, and the states of random
    number generators, which Keras's files lack; layers without state need not correspond. Nothing
    is changed if the states do not correspond: ``ValueError``.

    >>> import keras
    >>> a = keras.Sequential([keras.Input((2,)), keras.layers.Normalization()])
    >>> a.layers[0].adapt(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> b = keras.models.clone_model(a)
    >>> copy_weights(a, b)
    >>> np.asarray(b(np.array([[3.0, 6.0]]))).tolist()
    [[1.0, 1.0]]
    """
    vocabularies, lookups = _vocabularies(source, target)
    given, wanted = _states(source), _states(target)
    seeds, new_seeds = _seeds(source), _seeds(target)
    if len(given) != len(wanted):
        raise ValueError(
            f"{source.name} has {len(given)} layers with weights, but {target.name} has "
            f"{len(wanted)}: give two models with the same layers"
        )
    for (layer, state), (other, other_state) in zip(given, wanted):
        if _shapes(state) != _shapes(other_state):
            raise ValueError(
                f"the weights of {layer.name} do not fit {other.name}: "
                f"{_shapes(state)} and {_shapes(other_state)}"
            )
    for (_, state), (other, _) in zip(given, wanted):
        other.load_own_variables(state)
    for words, lookup in zip(vocabularies, lookups):
        if words:
            lookup.set_vocabulary(words)
    if len(seeds) == len(new_seeds):
        for seed, new in zip(seeds, new_seeds):
            new.assign(np.asarray(seed))


def set_weights(model, weights: Sequence[np.ndarray]) -> None:
    """``model.set_weights(weights)``, after which every layer derives its constants again.

    `model` is a layer or a model, `weights` are arrays in the order of its ``get_weights()``.
    """
    model.set_weights(weights)
    for layer, state in _states(model):
        layer.load_own_variables(state)


def _all_layers(layer):
    """A layer and all layers in it, depth first; a layer that several models share, once in each.

    So a copy in which those models no longer share it has the same order.
    """
    yield layer
    for inner in inner_layers(layer):  # also those in custom layers
        yield from _all_layers(inner)


def _vocabularies(source, target):
    """(the vocabularies of the lookup layers of `source`, the lookup layers of `target`).

    These are ``StringLookup`` and ``IntegerLookup``, also in a ``TextVectorization``.
    """
    given, wanted = (
        [layer for layer in _all_layers(model) if _is_lookup(layer)] for model in (source, target)
    )
    vocabularies = [layer.get_vocabulary(include_special_tokens=False) for layer in given]
    if any(vocabularies) and len(given) != len(wanted):
        raise ValueError(
            f"{source.name} has {len(given)} layers with a vocabulary, but {target.name} has "
            f"{len(wanted)}: give two models with the same layers"
        )
    return vocabularies, wanted


def _is_lookup(layer):
    return hasattr(layer, "set_vocabulary") and not inner_layers(layer)


def _seeds(model):
    """The states of the random number generators of all layers; none in Keras 2."""
    return [
        generator.state
        for layer in _all_layers(model)
        for generator in getattr(layer, "_seed_generators", ())
    ]


def _states(model):
    """[(layer, {key: array})] of all layers with state, nested ones too, in the model's order."""
    states = []
    for layer in _all_layers(model):
        state = {}
        layer.save_own_variables(state)
        if state:
            states.append((layer, {key: np.asarray(value) for key, value in state.items()}))
    return states


def _shapes(state):
    return {key: value.shape for key, value in state.items()}
