"""Finds the search space that a name means. No Keras, no TensorFlow."""

from __future__ import annotations

from keras_effnet.compound_space import CompoundSpace
from keras_effnet.search_space import SPACES, SearchSpace
from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_lookup import find_variant

COMPOUND = "compound:"  # and the base network


def find_space(name: str) -> SearchSpace | CompoundSpace:
    """The space of that name: one of ``SPACES``, or "compound:" and its base network.

    The base is a name or a file as :func:`~keras_effnet.variant_lookup.find_variant` takes them, or
    a name of ``SPACES``, whose base network is meant. Raises ``ValueError`` with the nearest names
    for an unknown one.

    >>> find_space("compound:mobilenetv2").size()
    46
    """
    if name.startswith(COMPOUND):
        base = name[len(COMPOUND) :]
        variant = SPACES[base].base if base in SPACES else find_variant(base)
        return CompoundSpace(name, variant)
    if name in SPACES:
        return SPACES[name]
    raise ValueError(unknown_name("search space", name, [*SPACES, f"{COMPOUND}NETWORK"]))
