import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.training.graph_memory import released_graphs


@tf.custom_gradient
def _square(x):
    return x * x, lambda gradient: 2 * x * gradient


def _train_once():
    """A reference to the graph of a step that has ended."""
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    kernel = layer.kernel if isinstance(layer.kernel, tf.Variable) else layer.kernel.value

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            y = _square(tf.matmul(x, kernel))
        return tape.gradient(y, kernel)

    graph = step.get_concrete_function(tf.TensorSpec((1, 2))).graph
    return layer.name, weakref.ref(graph)


@pytest.mark.every_stack
def test_the_graphs_of_a_context_are_freed_at_its_end():
    with released_graphs():
        name, graph = _train_once()
    assert graph() is None
    with released_graphs():
        again, _ = _train_once()
    assert again == name  # the count of layer names starts again


@pytest.mark.every_stack
def test_gradients_from_before_are_kept():
    @tf.function(autograph=False)
    def square(x):
        return _square(x)

    x = tf.Variable(3.0)
    square(x)
    with released_graphs():
        _train_once()
    gc.collect()
    with tf.GradientTape() as tape:
        y = square(x)
    np.testing.assert_allclose(tape.gradient(y, x), 6.0)


@pytest.mark.every_stack
def test_what_exists_before_is_not_collected_within_a_context():
    gc.unfreeze()  # the tests exclude imported modules themselves
    try:
        with released_graphs():
            assert gc.get_freeze_count() > 0
            with released_graphs():
                _, graph = _train_once()
            assert graph() is None
            assert gc.get_freeze_count() > 0  # the inner context leaves it as it was
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()
