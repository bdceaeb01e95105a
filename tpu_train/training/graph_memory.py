"""Frees the memory of a training that has ended, in a process that starts others."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import keras
from tensorflow.python.framework import ops


@contextlib.contextmanager
def released_graphs() -> Iterator[None]:
    """A context, or a decorator, whose models and graphs are freed at its end.

    At its start, Keras counts its layer names from 1 again, on which the seeds of dropout depend: a
    resumed process gives the same weights as one that had other models before.

    TensorFlow registers the gradient of every ``tf.custom_gradient`` in a graph (each swish is
    one) under a new name and keeps it; it refers to the graph of the whole training step, about 100
    MB for a network of the search space "small". No graph of the context is of use after it.
    """
    keras.backend.clear_session()
    earlier = set(_gradients())
    try:
        yield
    finally:
        keras.backend.clear_session()
        for name in set(_gradients()) - earlier:
            del _gradients()[name]
        gc.collect()


def _gradients():
    return ops.gradient_registry._registry  # there is no public access
