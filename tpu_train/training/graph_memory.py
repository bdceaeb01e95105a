"""Frees the graphs of phases and trainings that have ended."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import keras
from tensorflow.python.framework import ops


@contextlib.contextmanager
def released_graphs() -> Iterator[None]:
    """A context, or a decorator, whose models and graphs are freed at its end.

    At its start, Keras counts its layer names from 1 again, as in a new process. What exists then
    is excluded from the garbage collections within the context: they took 0.4 s each, five times a
    trial of a search.
    """
    keras.backend.clear_session()
    freezes = not gc.get_freeze_count()  # else it is done already, outside of this context
    if freezes:
        gc.freeze()
    try:
        with released_gradients():
            yield
    finally:
        keras.backend.clear_session()
        gc.collect()
        if freezes:
            gc.unfreeze()


@contextlib.contextmanager
def released_gradients() -> Iterator[None]:
    """A context, or a decorator, after which no gradient of its graphs can be computed.

    TensorFlow registers the gradient of every ``tf.custom_gradient`` in a graph (each swish is
    one) under a new name and keeps it; it refers to the graph of the whole training step, about 100
    MB for a network of the search space "small". The graphs are freed at the end of the context,
    unless something else refers to them.
    """
    earlier = _custom_gradients()
    try:
        yield
    finally:
        for name in _custom_gradients() - earlier:
            del _registry()[name]
        gc.collect()


def _custom_gradients():
    """The names of registered gradients, but those of TensorFlow's operations."""
    return {name for name in _registry() if name.startswith("CustomGradient-")}


def _registry():
    return ops.gradient_registry._registry  # there is no public access
