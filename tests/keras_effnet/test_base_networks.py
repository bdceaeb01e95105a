"""MobileNetV2 and ResNet-50, the bases of compound scaling that are not EfficientNets."""

import numpy as np
import pytest

from keras_effnet.block_strings import format_stages, parse_stages
from keras_effnet.constructors import create_model
from keras_effnet.feature_pyramid import feature_table
from keras_effnet.finetuning import freeze, with_new_head
from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.scaling import scale
from keras_effnet.variant_file import from_json, to_json
from keras_effnet.variant_lookup import list_models
from keras_effnet.variants import BASE_NETWORKS, NETWORKS, VARIANTS

SIZE = 64


def small(name):
    """The network with an eighth of the width and one block less per stage, 10 classes."""
    return scale(name, width=0.125, depth=0.5)


def test_base_networks_are_names_but_not_efficientnets():
    assert set(NETWORKS) == set(VARIANTS) | {"mobilenetv2", "resnet50"}
    assert list_models() == list(VARIANTS)


def test_costs_are_the_published_ones():
    """keras.applications has 3,538,984; He et al.'s block as in torchvision, 25,557,032."""
    assert cost("mobilenetv2").parameters == 3_538_984
    assert cost("resnet50").trainable == 25_557_032
    assert cost("mobilenetv2").macs == pytest.approx(300e6, rel=0.01)
    assert cost("resnet50").macs == pytest.approx(4.09e9, rel=0.01)


def test_mobilenet_widths_have_keras_applications_parameters():
    theirs = {0.35: 1_691_208, 0.5: 1_987_224, 0.75: 2_663_064, 1.3: 5_431_048, 1.4: 6_156_712}
    ours = {width: cost(scale("mobilenetv2", width=width)).parameters for width in theirs}
    assert ours == theirs


@pytest.mark.parametrize("name", BASE_NETWORKS)
def test_variant_files_and_block_strings_are_exact(name):
    variant = BASE_NETWORKS[name]
    strings = format_stages(variant.stages, variant.stem_filters)
    assert parse_stages(strings) == (variant.stages, variant.stem_filters)
    scaled = scale(variant, 1)
    assert from_json(to_json(scaled)) == scaled


def test_a_bottleneck_scales_its_narrow_convolution():
    for block in plan(scale("resnet50", width=1.2)).blocks:
        assert block.expand_filters % 8 == 0
        assert block.out_filters == 4 * block.expand_filters


@pytest.mark.every_stack
@pytest.mark.parametrize("name", BASE_NETWORKS)
def test_built_networks_follow_plan_and_cost(keras, name):
    variant = small(name)
    model = create_model(variant, classes=10, input_shape=(SIZE, SIZE, 3))
    assert model.count_params() == cost(variant, classes=10).parameters
    assert str(feature_table(model)) == str(feature_table(variant))
    maps = create_model(variant, include_top=False, input_shape=(SIZE, SIZE, 3))
    assert maps.output_shape[1:3] == (2, 2)
    assert with_new_head(maps, 5).output_shape == (None, 5)
    frozen = freeze(model)
    assert model.get_layer("predictions").trainable
    assert "head" not in frozen
    assert not any(layer.trainable for layer in model.layers if layer.name.startswith("block"))


@pytest.mark.slow
@pytest.mark.every_stack
def test_mobilenet_equals_keras_applications(keras):
    """Parameters, layers with weights, and logits, with the weights of a random network."""
    shape = (SIZE, SIZE, 3)
    theirs = keras.applications.MobileNetV2(
        weights=None, classifier_activation=None, input_shape=shape
    )
    ours = create_model("mobilenetv2", classifier_activation=None, input_shape=shape)
    pairs = list(zip(*([x for x in m.layers if x.weights] for m in (theirs, ours))))
    assert [[w.shape for w in x.get_weights()] for x, _ in pairs] == [
        [w.shape for w in x.get_weights()] for _, x in pairs
    ]
    assert [type(x).__name__ for x, _ in pairs] == [type(x).__name__ for _, x in pairs]
    assert theirs.count_params() == ours.count_params()
    _copy_weights(pairs)
    images = np.random.default_rng(1).integers(0, 256, (2, *shape)).astype("float32")
    expected = theirs.predict(images / 127.5 - 1, verbose=0)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours.predict(images, verbose=0), expected, atol=1e-5)


def _copy_weights(pairs):
    """Sets the weights of two networks' layers to the same random values."""
    draw = np.random.default_rng(0)
    for theirs, ours in pairs:
        weights = theirs.get_weights()
        if len(weights) == 4:  # batch norm: gamma, beta, mean, variance
            shape = weights[0].shape
            weights = [draw.uniform(0.5, 1.5, shape), draw.normal(0, 0.1, shape)]
            weights += [draw.normal(0, 0.1, shape), draw.uniform(0.5, 1.5, shape)]
        theirs.set_weights(weights)
        ours.set_weights(weights)


def test_released_weights_are_refused_as_there_are_none():
    with pytest.raises(ValueError, match="mobilenetv2 has 0 released weights"):
        create_model("mobilenetv2", weights="imagenet")


def test_a_width_below_1_keeps_mobilenets_head():
    assert plan(scale("mobilenetv2", width=0.5)).head_filters == 1280
    assert plan(scale("mobilenetv2", width=2)).head_filters == 2560
    assert plan(scale("efficientnet-b0", width=0.5)).head_filters == 640
