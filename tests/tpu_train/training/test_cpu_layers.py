import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.constructors import create_model
from tpu_train.recipes.phases import make_phases
from tpu_train.recipes.table import find_recipe
from tpu_train.training.cpu_layers import (
    CompiledSwish,
    SplitDepthwiseConv2D,
    faster_layer,
)
from tpu_train.training.distributed_layers import training_clone
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run_setup import build_training

pytestmark = pytest.mark.every_stack


def draw(*shape):
    return tf.constant(np.random.default_rng(len(shape)).normal(0, 2, shape).astype(np.float32))


def outputs_and_gradients(layer, x, weights=()):
    """[outputs, gradient of the inputs, gradient of every weight], in a traced function."""
    layer(x)
    layer.set_weights(weights)
    variables = [w if isinstance(w, tf.Variable) else w.value for w in layer.weights]

    @tf.function
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
        return [y, *tape.gradient(loss, [x, *variables])]

    return compute(x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_swish_and_its_gradient_are_those_of_keras(dtype):
    x = tf.cast(draw(2, 5, 5, 3), dtype)
    stock = keras.layers.Activation("swish", dtype=dtype)
    ours = faster_layer(stock)
    assert isinstance(ours, CompiledSwish)
    tolerance = 1e-6 if dtype == "float32" else 0.02
    for got, expected in zip(outputs_and_gradients(ours, x), outputs_and_gradients(stock, x)):
        assert got.dtype == expected.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(got, tf.float32), tf.cast(expected, tf.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("kernel_size", [5, 7, (3, 4)])
def test_a_split_filter_has_the_gradient_of_the_whole_one(kernel_size):
    for size, strides, padding in itertools.product((9, 12), (1, 2), ("same", "valid")):
        stock = keras.layers.DepthwiseConv2D(
            kernel_size, strides=strides, padding=padding, use_bias=False
        )
        x = draw(2, size, size, 3)
        stock(x)
        weights = [draw(*stock.get_weights()[0].shape).numpy() / 8]
        ours = faster_layer(stock)
        assert isinstance(ours, SplitDepthwiseConv2D)
        results = [outputs_and_gradients(layer, x, weights) for layer in (ours, stock)]
        for got, expected in zip(*results):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_layers_that_compute_something_else_stay():
    layers = keras.layers
    for layer in (
        layers.Activation("relu"),
        layers.Conv2D(2, 5),
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.DepthwiseConv2D(5),
        layers.DepthwiseConv2D(5, use_bias=False, activation="relu"),
        layers.DepthwiseConv2D(5, use_bias=False, depth_multiplier=2),
        layers.DepthwiseConv2D(5, use_bias=False, dilation_rate=2),
    ):
        assert faster_layer(layer) is None


def test_a_network_that_trains_on_a_cpu_has_these_layers(tiny):
    model = create_model("efficientnet-b0", weights=None, classes=3, input_shape=(32, 32, 3))
    clones = [training_clone(model, on_cpu=on_cpu) for on_cpu in (False, True)]
    kinds = [{type(layer) for layer in clone.layers} for clone in clones]
    assert {CompiledSwish, SplitDepthwiseConv2D} <= kinds[1]
    assert not {CompiledSwish, SplitDepthwiseConv2D} & kinds[0]
    x = draw(2, 32, 32, 3) * 50 + 100
    np.testing.assert_allclose(clones[1](x), clones[0](x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(clones[1].get_weights()[0], model.get_weights()[0])


def test_the_trainer_uses_them_where_its_replicas_are_cpus():
    recipe = find_recipe("digits")
    trained, averaged, _ = build_training(
        recipe, make_phases(recipe, 1000), 10, make_strategy("cpu")
    )
    assert any(isinstance(layer, CompiledSwish) for layer in trained.layers)
    assert not any(isinstance(layer, CompiledSwish) for layer in averaged.layers)
