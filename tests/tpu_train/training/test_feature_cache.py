"""A frozen backbone is computed once for each image, and the training stays the same."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_effnet.constructors import create_model
from tests.tpu_train.networks import conv_network
from tpu_train.recipes.phases import make_phases
from tpu_train.training import distributed_layers, feature_cache
from tpu_train.training.distribution import make_strategy
from tpu_train.training.feature_cache import split_model

pytestmark = pytest.mark.every_stack

# Dropout of the head stays. test_loop.py resumes such a run.
FROZEN = {"freeze": "backbone", "dropout_first": 0.3, "dropout_last": 0.3, "mixup_last": 0.0}


def test_the_weights_are_those_without_a_cache(train_conv, exported_weights, log, monkeypatch):
    cached = train_conv("cached", changes=FROZEN)
    for phase in (1, 2):  # of two image sizes
        line = f"phase {phase}: computing the outputs of the frozen layers once, for 24 images"
        assert line in log()
    two_devices = train_conv("devices", changes=FROZEN, device="cpu:2")
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 0)
    plain = train_conv("plain", changes=FROZEN)
    assert "computing" not in log()
    first = exported_weights(plain)
    for result in (cached, two_devices):
        for a, b in zip(exported_weights(result), first):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        assert [p.loss for p in result.phases] == pytest.approx([p.loss for p in plain.phases])


AUGMENTATIONS = (
    {"flip": True},
    {"vertical_flip": True},
    {"quarter_turns": True},
    {"color_jitter": 0.3},
    {"random_crop_min_area": 0.5},
    {"augment": "randaugment", "randaugment_magnitude_first": 5.0, "randaugment_layers": 1},
    {"augment": "autoaugment"},
    {"augment": "trivialaugment"},
    {"augment": "keras_cv"},
    {"cutout": 0.2},
    {"random_erasing_prob": 0.2},
    {"mixup_first": 0.2},
    {"cutmix_first": 0.2},
)


def test_images_that_change_need_the_network_in_every_step(conv_recipe, source):
    recipe = dataclasses.replace(conv_recipe, freeze="backbone")
    for changes in AUGMENTATIONS:
        cache, lines = _make_cache(dataclasses.replace(recipe, **changes), source)
        assert cache is None
        name = next(iter(changes)).removesuffix("_first")
        assert f"computed in every step, because of {name};" in lines[0]
    for changes in ({"epochs": 1, "phases": 1}, {"freeze": "none"}):
        assert _make_cache(dataclasses.replace(recipe, **changes), source) == (None, [])
    assert _make_cache(recipe, source)[0] is not None


def test_outputs_that_are_too_large_are_not_kept(conv_recipe, source, monkeypatch):
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 24 * 4 * 4 - 1)
    recipe = dataclasses.replace(conv_recipe, freeze="backbone")
    cache, lines = _make_cache(recipe, source)
    assert cache is None
    assert "their outputs for all images need 0.0 GiB, more than" in lines[0]


def _make_cache(recipe, source):
    """(The cache of the first phase, logged lines)."""
    strategy, lines = make_strategy("cpu"), []
    with strategy.scope():
        network = conv_network(None, keras.Input((None, None, 3)), 4, None)
        model = distributed_layers.training_clone(network)
    (phase, *_) = make_phases(recipe, source.examples)
    distributed_layers.set_phase(model, recipe, phase)
    make = feature_cache.make_feature_cache
    return make(strategy, model, source, recipe, phase, log=lines.append), lines


def test_the_head_has_all_that_trains_or_depends_on_chance(tiny):
    shape = {"input_shape": (None, None, 3), "classes": 5, "classifier_activation": None}
    model = distributed_layers.training_clone(create_model(tiny, **shape))
    for freeze, drop_path, dropout, first in (
        ("backbone", 0.0, 0.2, "top_dropout"),
        ("top", 0.0, 0.0, "predictions"),
        ("top_conv+block*+stem*", 0.0, 0.0, "top_bn"),
        ("backbone", 1.0, 0.0, None),
        ("batch_norm", 0.0, 0.0, None),
    ):
        distributed_layers.set_dropout(model, dropout, drop_path)
        distributed_layers.set_frozen(model, freeze)
        parts = split_model(model, freeze)
        assert (parts and parts[1].layers[1].name) == first, freeze
        if parts:
            backbone, head = parts
            images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("f4")
            outputs = head(backbone(images, training=False), training=False)
            np.testing.assert_allclose(outputs, model(images, training=False), atol=1e-6)


def test_layers_that_may_be_random_are_not_cached():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GaussianNoise(1.0)(inputs)
    outputs = keras.layers.Dense(3, name="head")(keras.layers.Flatten()(x))
    assert split_model(keras.Model(inputs, outputs), "backbone") is None
    two = keras.layers.Add()([keras.layers.Dense(3, name=n)(inputs) for n in ("a", "b")])
    assert split_model(keras.Model(inputs, keras.layers.Flatten()(two)), "a") is None


def test_a_layer_that_trains_and_is_called_twice_is_not_cut():
    inputs = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 1, name="shared")
    x = keras.layers.Conv2D(3, 1, name="first")(inputs)
    outputs = shared(keras.layers.Activation("relu")(shared(x)))
    assert split_model(keras.Model(inputs, outputs), "first") is None
    assert split_model(keras.Model(inputs, shared(x)), "first") is not None


def test_the_head_keeps_the_arguments_of_its_calls():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x, training=False)
    outputs = keras.layers.Conv2D(3, 1, name="head")(x * 2.0)
    model = keras.Model(inputs, outputs)
    backbone, head = split_model(model, "first")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("f4")
    expected = model(images, training=True)
    np.testing.assert_allclose(head(backbone(images), training=True), expected, atol=1e-6)
