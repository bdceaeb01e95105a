import dataclasses
import sys
import types

import keras
import numpy as np
import pytest

from keras_effnet.constructors import create_model
from tpu_train.training import distributed_layers, model_factory
from tpu_train.training.model_factory import exported_network, training_network

pytestmark = pytest.mark.every_stack

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3)).astype(np.float32)


def imported_network(weights, input_tensor, classes, classifier_activation):
    """A network with keras.applications' arguments, on pixels in [-1, 1]."""
    assert weights is None
    x = keras.layers.Conv2D(4, 3, name="conv")(input_tensor)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(classes, activation=classifier_activation, name="head")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("test_module")
    module.imported_network = imported_network
    monkeypatch.setitem(sys.modules, "test_module", module)
    return "test_module:imported_network"


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_exported_scores_follow_from_the_trained_logits(tiny_recipe, loss):
    recipe = dataclasses.replace(tiny_recipe, loss=loss, zero_init_classifier=False)
    trained = training_network(recipe, 4)
    assert trained.input_shape == (None, None, None, 3)
    exported = exported_network(recipe, 4, trained.get_weights())
    assert exported.input_shape == (None, 40, 40, 3)
    logits = trained(PIXELS, training=False).numpy()
    scores = exported(PIXELS, training=False).numpy()
    assert logits.min() < 0
    exp = np.exp(logits)
    expected = exp / exp.sum(1, keepdims=True) if loss == "softmax" else exp / (1 + exp)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_the_network_is_built_with_the_largest_rates_of_all_phases(tiny_recipe):
    """`set_dropout` multiplies them."""
    network = training_network(dataclasses.replace(tiny_recipe, dropout_first=0.6), 4)
    assert network.get_layer("top_dropout").rate == 0.6  # dropout_last is 0.2
    drops = [
        layer.rate
        for layer in network.layers
        if isinstance(layer, keras.layers.Dropout) and layer.noise_shape
    ]
    assert drops
    assert max(drops) < 0.3  # drop_path_last is 0.3, reached behind the last block


def test_zero_init_classifier_gives_zero_logits(tiny_recipe):
    assert tiny_recipe.zero_init_classifier
    assert not training_network(tiny_recipe, 4)(PIXELS, training=False).numpy().any()
    random = training_network(dataclasses.replace(tiny_recipe, zero_init_classifier=False), 4)
    assert random(PIXELS, training=False).numpy().any()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_applies_to_activations_not_weights(tiny_recipe, precision):
    network = training_network(dataclasses.replace(tiny_recipe, precision=precision), 4)
    assert network.get_layer("stem_conv").compute_dtype == precision
    assert {w.dtype for w in network.get_weights()} == {np.dtype("float32")}
    assert keras.mixed_precision.global_policy().name == "float32"


@pytest.fixture
def caller_policy():
    """A global dtype policy that is not Keras's default, as a caller may have set it."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield "mixed_float16"
    keras.mixed_precision.set_global_policy(before)


def test_building_a_network_restores_the_callers_dtype_policy(tiny_recipe, caller_policy):
    recipe = dataclasses.replace(tiny_recipe, precision="bfloat16")
    network = training_network(recipe, 4)
    assert keras.mixed_precision.global_policy().name == caller_policy
    exported_network(recipe, 4, network.get_weights())
    assert keras.mixed_precision.global_policy().name == caller_policy


def test_the_dtype_policy_is_restored_after_an_error(tiny_recipe, caller_policy):
    with pytest.raises(ValueError, match="cannot be called"):
        training_network(
            dataclasses.replace(tiny_recipe, model="builtins:len", precision="bfloat16"), 4
        )
    assert keras.mixed_precision.global_policy().name == caller_policy


def test_width_and_depth_scale_the_network(tiny_recipe):
    plain = training_network(tiny_recipe, 4)
    wide = training_network(dataclasses.replace(tiny_recipe, width=2), 4)
    deep = training_network(dataclasses.replace(tiny_recipe, depth=2), 4)
    assert wide.get_layer("stem_conv").filters == 2 * plain.get_layer("stem_conv").filters
    assert len(wide.layers) == len(plain.layers)
    assert len(deep.layers) > len(plain.layers)
    exported = exported_network(dataclasses.replace(tiny_recipe, width=2), 4, wide.get_weights())
    assert exported.count_params() == wide.count_params()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_imported_network_gets_pixels_around_0_and_exports_scores(
    tiny_recipe, module, precision
):
    recipe = dataclasses.replace(
        tiny_recipe,
        model=module,
        zero_init_classifier=False,
        precision=precision,
        image_size_eval=40,
    )
    model_factory.check(recipe)
    trained = training_network(recipe, 4)
    exported = exported_network(recipe, 4, trained.get_weights())
    assert exported.input_shape == (None, 40, 40, 3)
    conv = exported.get_layer("conv")
    inside = keras.Model(exported.inputs[0], conv.input)
    np.testing.assert_allclose(inside(PIXELS), PIXELS / 127.5 - 1, atol=1e-5)
    logits = np.float32(trained(PIXELS, training=False))
    exp = np.exp(logits)
    np.testing.assert_allclose(
        exported(PIXELS),
        exp / exp.sum(1, keepdims=True),
        atol=1e-5 if precision == "float32" else 0.02,
    )
    assert exported.layers[-1].dtype == "float32"


def test_the_weights_set_the_normalization_of_the_export(tiny_recipe, tiny, tmp_path):
    backbone = create_model(
        dataclasses.replace(
            tiny,
            normalization=dataclasses.replace(tiny.normalization, mean=(10.0, 20.0, 30.0)),
        ),
        classes=7,
    )
    backbone.save(tmp_path / "backbone.keras")
    recipe = dataclasses.replace(tiny_recipe, weights=str(tmp_path / "backbone.keras"))
    model_factory.check(recipe)
    trained = training_network(recipe, 4)
    for network in (trained, exported_network(recipe, 4, trained.get_weights())):
        mean = network.get_layer("normalization").get_config()["mean"]
        np.testing.assert_allclose(np.ravel(mean), [10, 20, 30])
        assert network.output_shape == (None, 4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "tiny", "weights": "none.h5"}, "no file has that name"),
        ({"model": "efficientnetv2-b9"}, "efficientnetv2-b9"),
        ({"model": "keras.applications:ResNet51"}, "cannot be imported.*no attribute 'ResNet51'"),
        ({"model": "nowhere:net"}, "--model=nowhere:net cannot be imported"),
        (
            {"model": "keras.applications:ResNet50", "width": 2},
            "width 2 and depth 1 scale networks",
        ),
        ({"model": "keras.applications:ResNet50", "weights": "auto"}, "e.g. imagenet"),
        ({"model": "efficientnetv2-b0", "width": 2, "weights": "auto"}, "has no released weights"),
    ],
)
def test_invalid_models_are_errors(tiny_recipe, changes, why):
    with pytest.raises(ValueError, match=why):
        model_factory.check(dataclasses.replace(tiny_recipe, **changes))


def _own_input(weights, input_tensor, classes, classifier_activation):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Dropout(0.5, name="top")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, name="head")(x))


def _fixed_input(weights, input_tensor, classes, classifier_activation):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(inputs)))


def _two_outputs(weights, input_tensor, classes, classifier_activation):
    x = keras.layers.GlobalAveragePooling2D()(input_tensor)
    return keras.Model(input_tensor, [keras.layers.Dense(classes)(x), x])


def _maps(weights, input_tensor, classes, classifier_activation):
    return keras.Model(input_tensor, keras.layers.Conv2D(classes, 1)(input_tensor))


def _failing(weights, input_tensor, classes, classifier_activation):
    raise RuntimeError("no GPU")


def test_a_network_with_its_input_layer_is_connected(module, tiny_recipe):
    sys.modules["test_module"].imported_network = _own_input
    recipe = dataclasses.replace(tiny_recipe, model=module, weights="", zero_init_classifier=False)
    trained = training_network(recipe, 4)
    assert trained.input_shape == (None, None, None, 3)
    assert {"conv", "bn", "top", "head"} <= {layer.name for layer in trained.layers}  # not nested
    clone = distributed_layers.training_clone(trained)
    assert isinstance(clone.get_layer("bn"), distributed_layers.GroupedBatchNorm)
    exported = exported_network(recipe, 4, trained.get_weights())
    logits = trained(PIXELS, training=False).numpy()
    np.testing.assert_allclose(clone(PIXELS, training=False), logits, rtol=1e-5)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(exported(PIXELS, training=False), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_fixed_input, r"does not accept images of .* px \(takes images of 8 px\).*it must be"),
        (_two_outputs, "is not a functional or sequential model with one input and one output"),
        (_maps, r"outputs of shape \(None, None, None, 4\), and not \(None, 4\): it must be"),
        (_failing, r"failed: RuntimeError: no GPU \(test_model_factory.py, line"),
        (lambda **_: "network", "returned str: it must be a function with"),
        (lambda classes: None, "cannot be called .*it must be a function with"),
        (3, "is not a function, but int"),
    ],
)
def test_the_contract_of_an_imported_network_is_named(module, tiny_recipe, function, message):
    sys.modules["test_module"].imported_network = function
    with pytest.raises(ValueError, match=message):
        training_network(dataclasses.replace(tiny_recipe, model=module, weights=""), 4)
