import dataclasses
import math

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.feature_pyramid import feature_table, features
from keras_effnet.model_structure import find_backbone, layers_by_block, layers_by_group
from keras_effnet.variants import VARIANTS, Stage

pytestmark = pytest.mark.every_stack

# Channels at strides 2, 4, 8, 16, 32: endpoints["reduction_1"] to 5 of the official code.
_V1 = {
    "efficientnet-b0": (16, 24, 40, 112, 320),
    "efficientnet-b1": (16, 24, 40, 112, 320),
    "efficientnet-b2": (16, 24, 48, 120, 352),
    "efficientnet-b3": (24, 32, 48, 136, 384),
    "efficientnet-b4": (24, 32, 56, 160, 448),
    "efficientnet-b5": (24, 40, 64, 176, 512),
    "efficientnet-b6": (32, 40, 72, 200, 576),
    "efficientnet-b7": (32, 48, 80, 224, 640),
    "efficientnet-b8": (32, 56, 88, 248, 704),
    "efficientnet-l2": (72, 104, 176, 480, 1376),
}
CHANNELS = {
    **_V1,
    **{f"efficientnet-lite{i}": _V1[f"efficientnet-b{i}"] for i in range(5)},
    "efficientnetv2-b0": (16, 32, 48, 112, 192),
    "efficientnetv2-b1": (16, 32, 48, 112, 192),
    "efficientnetv2-b2": (16, 32, 56, 120, 208),
    "efficientnetv2-b3": (16, 40, 56, 136, 232),
    "efficientnetv2-s": (24, 48, 64, 160, 256),
    "efficientnetv2-m": (24, 48, 80, 176, 512),
    "efficientnetv2-l": (32, 64, 96, 224, 640),
    "efficientnetv2-xl": (32, 64, 96, 256, 640),
}
assert set(CHANNELS) == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_official_pyramid(name):
    rows = feature_table(name).levels
    assert tuple(row.channels for row in rows) == CHANNELS[name]
    assert [(row.level, row.stride) for row in rows] == [(i, 2**i) for i in range(1, 6)]


def test_the_feature_table_prints_as_a_table():
    assert str(feature_table("efficientnetv2-s")).splitlines() == [
        "efficientnetv2-s",
        "level  stride  channels  layer",
        "    1       2        24  block1b_add",
        "    2       4        48  block2d_add",
        "    3       8        64  block3d_add",
        "    4      16       160  block5i_add",
        "    5      32       256  block6o_add",
    ]
    assert feature_table("efficientnet-b0")[3].channels == 40


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("side", [64, None])
def test_a_model_has_the_table_of_its_plan(keras, small, include_top, side):
    model = create_model(small, include_top=include_top, input_shape=(side, side, 3))
    assert feature_table(model) == feature_table(small)


@pytest.mark.tensorflow_only("a whole network, which JAX compiles operation by operation")
@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnetv2-b0"])
def test_a_published_network_has_the_table_of_its_plan(keras, name):
    model = create_model(name, input_shape=(64, 64, 3), name="mine")
    assert feature_table(model).model == "mine"
    assert feature_table(model).levels == feature_table(name).levels
    stages = [f"block{i + 1}" for i in range(len(VARIANTS[name].stages))]
    assert list(layers_by_group(model)) == ["stem", *stages, "top", "head"]


def test_blocks_after_z_stay_in_order(keras, tiny):
    stages = (Stage("fused", 3, 1, 1, 8, 28, 0.0), Stage("fused", 3, 2, 2, 8, 2, 0.0))
    deep = dataclasses.replace(tiny, name="deep", stages=stages)
    model = create_model(deep, input_shape=(32, 32, 3))
    names = list(layers_by_block(find_backbone(model)))
    assert names[24:29] == ["block1y", "block1z", "block1za", "block1zb", "block2a"]
    assert feature_table(model) == feature_table(deep)
    assert feature_table(model)[1].layer == "block1zb_add"


def test_feature_maps_are_the_models_layer_outputs(keras, small, tame, images):
    model = create_model(small, classes=3, input_shape=(64, 64, 3))
    tame(model)
    maps = features(model, levels=(1, 2, 3))(images(64), training=False)
    for row, have in zip(feature_table(model).levels, maps):
        submodel = keras.Model(model.input, model.get_layer(row.layer).output)
        np.testing.assert_array_equal(_numpy(have), _numpy(submodel(images(64), training=False)))
        assert tuple(have.shape) == (2, 64 // row.stride, 64 // row.stride, row.channels)


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
def test_feature_maps_of_any_size(keras, small, images, size):
    pyramid = features(small, levels=(3, 1))  # in the given order
    for level, have in zip((3, 1), pyramid(images(*size), training=False)):
        assert tuple(have.shape[1:3]) == tuple(math.ceil(n / 2**level) for n in size)


def test_one_level_gives_one_map(keras, small, images):
    for levels in (2, (2,)):
        assert tuple(features(small, levels)(images(32), training=False).shape[:3]) == (2, 8, 8)


def test_a_loaded_model_has_the_same_table(keras, small, tmp_path, tame, images):
    model = create_model(small, classes=3, input_shape=(32, 32, 3), name="anything")
    tame(model)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras", compile=False)
    assert feature_table(loaded) == feature_table(model)
    have, want = (features(m, 2)(images(32), training=False) for m in (loaded, model))
    np.testing.assert_array_equal(_numpy(have), _numpy(want))


def test_a_keras_applications_model_has_the_same_table(keras, small, by_applications):
    table = feature_table(by_applications(small, (64, 64, 3)))
    assert [r.channels for r in table.levels] == [r.channels for r in feature_table(small).levels]


@pytest.mark.parametrize("kind", ["functional", "sequential", "two deep"])
def test_features_include_layers_before_a_nested_network(keras, small, images, kind):
    backbone = create_model(small, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    shrink = keras.layers.Resizing(32, 32)
    stack = [shrink, backbone, keras.layers.Dense(2)]
    if kind == "sequential":
        model = keras.Sequential([keras.Input((64, 64, 3)), *stack])
    else:
        x = inputs = keras.Input((64, 64, 3))
        for layer in stack:
            x = layer(x)
        model = keras.Model(inputs, x)
        if kind == "two deep":
            around = keras.Input((64, 64, 3))
            model = keras.Model(around, model(keras.layers.Rescaling(0.5)(around)))
    backbone(keras.Input((32, 32, 3)))  # a later call outside this model
    half = 0.5 if kind == "two deep" else 1.0
    want = features(backbone, 3)(shrink(half * images(64)), training=False)
    have = features(model, 3)(images(64), training=False)
    np.testing.assert_allclose(_numpy(have), _numpy(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": (3, 6)}, "small-v. has no level 6: it has 1, 2, 3"),
        ({"levels": ()}, "levels is empty"),
        ({"levels": ("p3",)}, "no level 'p3'"),
    ],
)
def test_unknown_levels_are_errors(keras, small, arguments, message):
    with pytest.raises(ValueError, match=message):
        features(dataclasses.replace(small, name=small.name[:8]), **arguments)


def test_a_level_may_be_an_integer_of_numpy(keras, small):
    assert features(small, np.int64(3)).output_shape == features(small, 3).output_shape


def test_models_without_one_efficientnet_are_errors(keras, tiny):
    with pytest.raises(ValueError, match=r"Unknown model 'efficientnet-b9'. Did you mean"):
        features("efficientnet-b9")
    with pytest.raises(ValueError, match=r"not a keras\.Model"):
        features(7)
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="dense")
    with pytest.raises(ValueError, match="dense contains no EfficientNet"):
        feature_table(dense)
    bodies = [create_model(tiny, name=n, include_top=False, pooling="avg") for n in ("a", "b")]
    inputs = keras.Input((32, 32, 3))
    both = keras.Model(inputs, keras.layers.Add()([b(inputs) for b in bodies]), name="both")
    with pytest.raises(ValueError, match=r"both contains 2 EfficientNets \('a', 'b'\)"):
        features(both)
    with pytest.raises(ValueError, match="apply to a variant's name"):
        features(bodies[0], 1, input_shape=(64, 64, 3))


def _numpy(tensor):
    return np.asarray(tensor)
