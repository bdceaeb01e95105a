import dataclasses

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.feature_pyramid import feature_table, features
from keras_effnet.finetuning import freeze, with_new_head
from keras_effnet.image_size import change_image_size
from keras_effnet.variants import VARIANTS

pytestmark = pytest.mark.every_stack


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_outputs_are_those_of_a_model_built_at_that_size(keras, small, tame, images, size):
    model = create_model(small, classes=5, input_shape=(32, 32, 3))
    tame(model)
    built = create_model(small, classes=5, input_shape=(*size, 3))
    built.set_weights(model.get_weights())
    resized = change_image_size(model, size[0] if size[0] == size[1] else size)
    assert resized.input_shape == (None, *size, 3)
    np.testing.assert_array_equal(_outputs(resized, images(*size)), _outputs(built, images(*size)))
    for have, want in zip(resized.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(have, want)


def test_only_the_size_changes(keras, small):
    model = create_model(
        small, classes=5, input_shape=(32, 32, 3), dropout_rate=0.35, drop_path_rate=0.1, name="m"
    )
    freeze(model, up_to="block1")
    resized = change_image_size(model, 40)
    assert resized.name == "m"
    for have, want in zip(resized.layers[1:], model.layers[1:]):
        assert have is not want
        assert (have.name, have.trainable) == (want.name, want.trainable)
        assert have.get_config() == want.get_config()


def test_nothing_is_shared(keras, small, images):
    model = create_model(small, classes=5, input_shape=(32, 32, 3))
    before = _outputs(model, images(32))
    resized = change_image_size(model, 32)
    resized.set_weights([0 * w for w in resized.get_weights()])
    np.testing.assert_array_equal(_outputs(model, images(32)), before)


def test_a_new_head_is_kept(keras, small, tame, images):
    model = with_new_head(create_model(small, input_shape=(32, 32, 3)), 4, dropout_rate=0.5)
    tame(model)
    built = with_new_head(create_model(small, input_shape=(48, 48, 3)), 4)
    built.set_weights(model.get_weights())
    resized = change_image_size(model, 48)
    assert resized.get_layer("top_dropout").rate == 0.5
    np.testing.assert_array_equal(_outputs(resized, images(48)), _outputs(built, images(48)))


def test_any_size_and_back(keras, small, images):
    model = create_model(small, classes=5, input_shape=(32, 32, 3))
    free = change_image_size(model, None)
    assert free.input_shape == (None, None, None, 3)
    np.testing.assert_allclose(
        _outputs(free, images(32)), _outputs(change_image_size(free, 32), images(32)), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_models_around_the_network_are_kept(keras, small, images, kind):
    backbone = create_model(small, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    stack = [keras.layers.Rescaling(0.5), backbone, keras.layers.Dense(2)]
    if kind == "sequential":
        model = keras.Sequential([keras.Input((32, 32, 3)), *stack])
    else:
        x = inputs = keras.Input((32, 32, 3))
        for layer in stack:
            x = layer(x)
        model = keras.Model(inputs, x)
    resized = change_image_size(model, 40)
    assert type(resized) is type(model)
    wider = change_image_size(backbone, 40)
    want = stack[2](wider(0.5 * images(40), training=False))
    np.testing.assert_allclose(_outputs(resized, images(40)), np.asarray(want), atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["efficientnet-l2", "efficientnetv2-xl"])
def test_the_deepest_networks_stay_within_the_recursion_limit(keras, name, images):
    narrow = dataclasses.replace(VARIANTS[name], name="narrow", width=0.1)  # full depth
    model = create_model(narrow, classes=2, input_shape=(32, 32, 3))
    resized = change_image_size(model, 40)
    built = create_model(narrow, classes=2, input_shape=(40, 40, 3))
    built.set_weights(model.get_weights())
    np.testing.assert_array_equal(_outputs(resized, images(40)), _outputs(built, images(40)))
    assert feature_table(resized) == feature_table(narrow)
    assert [tuple(m.shape)[1:3] for m in features(resized).outputs] == [(5, 5), (3, 3), (2, 2)]
    assert with_new_head(resized, 3).output_shape == (None, 3)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (31, "image_size 31 is invalid: .* at least 32"),
        ((64, 16), "is invalid"),
        ((64, 64, 3), "a pair"),
        (64.0, "is invalid"),
        ("64", "is invalid"),
        (True, "is invalid"),
    ],
)
def test_invalid_sizes_are_errors(keras, tiny, size, message):
    model = create_model(tiny, classes=2, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=message):
        change_image_size(model, size)


def test_models_with_several_inputs_are_errors(keras, tiny):
    backbone = create_model(tiny, include_top=False, pooling="avg")
    images, other = keras.Input((32, 32, 3)), keras.Input((1,))
    joined = keras.layers.Concatenate()([backbone(images), other])
    with pytest.raises(ValueError, match="has 2 inputs"):
        change_image_size(keras.Model([images, other], joined), 64)


@pytest.mark.every_stack
def test_layers_that_cannot_be_copied_or_resized_are_named(keras, tiny):
    def headless(*before, pooling="avg"):
        network = create_model(tiny, include_top=False, pooling=pooling, input_shape=(32, 32, 3))
        return [keras.Input((32, 32, 3)), *before, network]

    class Unsaved(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__(name="unsaved")
            self.factor = factor

        def call(self, x):
            return x * self.factor

    named = keras.layers.Lambda(lambda x: x / 255.0, name="divide")
    cases = ((named, "divide"), (Unsaved(2.0), "unsaved"))
    for layer, name in () if keras.__version__.startswith("2.") else cases:  # which copies both
        with pytest.raises(ValueError, match=f"the layer {name} of .* cannot be copied"):
            change_image_size(keras.Sequential(headless(layer)), 64)
    flat = [*headless(pooling=None), keras.layers.Flatten(), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match=r"weights for one image size only .* pooling instead of"):
        change_image_size(keras.Sequential(flat), 64)


def _outputs(model, images):
    return np.asarray(model(images, training=False))
