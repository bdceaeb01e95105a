import dataclasses
import inspect
import json
import sys

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.network_plan import plan
from keras_effnet.variants import V1, VARIANTS, Stage

pytestmark = pytest.mark.every_stack

# The others are in keras.applications: test_parity.py builds and counts them.
OURS_ALONE = [
    "efficientnet-b8",
    "efficientnet-l2",
    *[f"efficientnet-lite{i}" for i in range(1, 5)],
    "efficientnetv2-xl",
]


def _numbers(tensor):
    return np.array(tensor)


def _trainable(model):
    return sum(int(np.prod(tuple(w.shape))) for w in model.trainable_weights)


@pytest.mark.tensorflow_only("test_parity and the small variants cover what is built")
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-b0",
        "efficientnet-lite0",
        "efficientnetv2-b0",
        *[pytest.param(n, marks=pytest.mark.exhaustive) for n in OURS_ALONE],
    ],
)
def test_built_models_have_exactly_the_published_parameters(keras, name, zoo):
    facts = zoo[name]
    model = create_model(name)
    assert model.count_params() == facts["total"]
    assert _trainable(model) == facts["trainable"]
    assert model.input_shape == (None, facts["image_size"], facts["image_size"], 3)
    assert model.output_shape == (None, 1000)
    classifier = model.get_layer("predictions")
    assert model.count_params() - classifier.count_params() == facts["notop"]


@pytest.mark.parametrize("rates", [{}, {"drop_path_rate": 0.0, "dropout_rate": 0.0}])
def test_the_model_follows_its_plan(keras, small, rates):
    p = plan(small, **rates)
    model = create_model(small, classes=3, **rates)
    for b in p.blocks:
        assert model.get_layer(f"{b.name}_project_conv").filters == b.out_filters
        names = {layer.name for layer in model.layers}
        assert (f"{b.name}_expand_conv" in names) == b.expands
        assert (f"{b.name}_add" in names) == b.residual
        if b.se_filters:
            assert model.get_layer(f"{b.name}_se_reduce").filters == b.se_filters
        if b.residual:  # also at rate 0: the graph does not depend on the rates
            drop = model.get_layer(f"{b.name}_drop")
            assert drop.rate == b.drop_rate
            assert tuple(drop.noise_shape) == (None, 1, 1, 1)  # whole examples
    assert model.get_layer("top_dropout").rate == p.dropout_rate
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            assert (layer.momentum, layer.epsilon) == (p.bn_momentum, p.bn_epsilon)


def test_all_layers_are_stock_layers(keras, small):
    for layer in create_model(small, classes=3).layers:
        assert type(layer).__module__.startswith("keras."), layer.name


def test_normalization_constants_are_not_weights(keras, small):
    assert create_model(small, classes=3).get_layer("normalization").weights == []


def test_a_model_without_preprocessing_takes_normalized_pixels(keras, small, images, tame):
    whole = create_model(small, classes=3, classifier_activation=None)
    bare = create_model(small, classes=3, classifier_activation=None, include_preprocessing=False)
    tame(whole)
    bare.set_weights(whole.get_weights())
    x = images(64)
    normalized = (x - np.array(small.normalization.mean)) / np.array(small.normalization.std)
    np.testing.assert_allclose(
        _numbers(bare(normalized.astype("float32"))), _numbers(whole(x)), atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_use_the_mean_of_the_rgb_constants(keras, tiny, channels):
    model = create_model(tiny, classes=3, input_shape=(32, 32, channels))
    first = keras.Model(model.input, model.get_layer("normalization").output)
    x = np.full((1, 32, 32, channels), 255, "float32")
    np.testing.assert_allclose(_numbers(first(x)), 127 / 128, rtol=1e-6)


def test_integer_pixels_give_the_same_outputs_as_floats(keras, tiny, tame):
    model = create_model(tiny, classes=3)
    tame(model)
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    want = _numbers(model(x.astype("float32")))
    np.testing.assert_array_equal(_numbers(model(x)), want)
    integer = create_model(tiny, classes=3, input_tensor=keras.Input((32, 32, 3), dtype="uint8"))
    integer.set_weights(model.get_weights())
    np.testing.assert_array_equal(_numbers(integer(x)), want)


def test_dynamic_and_static_sizes_give_equal_outputs(keras, small, images, tame):
    """keras.applications' V1 pads by its static size, which is wrong for odd sizes."""
    dynamic = create_model(small, classes=3, input_shape=(None, None, 3))
    tame(dynamic)
    for height, width in ((64, 64), (45, 67)):
        static = create_model(small, classes=3, input_shape=(height, width, 3))
        static.set_weights(dynamic.get_weights())
        x = images(height, width)
        np.testing.assert_array_equal(_numbers(dynamic(x)), _numbers(static(x)))


def test_feature_maps_halve_and_round_up(keras, small, images):
    model = create_model(small, include_top=False)
    assert tuple(model(images(45, 67)).shape) == (2, 6, 9, plan(small).head_filters)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_outputs_vectors(keras, tiny, images, tame, pooling):
    maps = create_model(tiny, include_top=False)
    vectors = create_model(tiny, include_top=False, pooling=pooling)
    tame(maps)
    vectors.set_weights(maps.get_weights())
    x = images(32)
    want = getattr(np, {"avg": "mean", "max": "max"}[pooling])(_numbers(maps(x)), axis=(1, 2))
    np.testing.assert_allclose(_numbers(vectors(x)), want, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_classifier_is_float32_under_mixed_precision(keras, tiny, images, tame, policy):
    x = images(32)
    full = create_model(tiny, classes=3)
    tame(full)
    keras.mixed_precision.set_global_policy(policy)
    mixed = create_model(tiny, classes=3)
    mixed.set_weights(full.get_weights())
    output = mixed(x)
    assert _numbers(output).dtype == np.float32
    assert mixed.get_layer("top_conv").compute_dtype == policy.replace("mixed_", "")
    assert mixed.get_layer("normalization").compute_dtype == "float32"
    np.testing.assert_allclose(_numbers(output), _numbers(full(x)), atol=0.05)
    assert np.ptp(_numbers(output)) > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_pixels_are_not_rounded_under_mixed_precision(keras, tiny, policy):
    keras.mixed_precision.set_global_policy(policy)
    model = create_model(tiny, classes=3)
    constants = plan(tiny).normalization
    pixels = np.full((1, 32, 32, 3), 200.3, np.float32)  # as a resize or a mixup gives them
    normalized = keras.Model(model.inputs[0], model.get_layer("normalization").output)
    expected = (pixels[0, 0, 0] - constants.mean) / constants.std
    np.testing.assert_allclose(_numbers(normalized(pixels))[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["backbone", "My-Net.v2", "b", "resnet50"])
def test_a_model_may_have_any_name(keras, tiny, name):
    """keras.applications' V2 finds its blocks by the model's name, and raises KeyError."""
    assert create_model(tiny, classes=3, name=name).name == name


def test_a_model_on_an_input_tensor_is_called_without_a_warning(keras, tiny, images):
    image = keras.Input((40, 40, 3))
    model = create_model(tiny, classes=3, input_tensor=keras.layers.ReLU()(image))
    assert model(images(40)).shape == (2, 3)
    assert model.input is image
    assert len(model.inputs) == 1


def test_a_plain_model_is_called_without_a_warning(keras, tiny, images):
    """Keras warns if a model with a list of one input is called with a tensor."""
    model = create_model(tiny, classes=3)
    assert model(images(32)).shape == (2, 3)
    assert not isinstance(model.input, list)


def test_layers_of_equal_shape_start_with_different_weights(keras, tiny):
    deep = dataclasses.replace(tiny, depth=2.0)
    model = create_model(deep, classes=3)
    for suffix in ("expand_conv", "dwconv2", "project_conv", "se_reduce", "se_expand"):
        one, other = (model.get_layer(f"block2{c}_{suffix}").get_weights()[0] for c in "bc")
        assert one.shape == other.shape
        assert not np.array_equal(one, other), suffix


def test_initial_weights_follow_the_official_distributions(keras, tiny):
    """Normal, not truncated, over fan_out; a depthwise kernel's fan_out is only its area."""
    wide = dataclasses.replace(tiny, width=8.0)
    model = create_model(wide, classes=400)

    def kernel(name):
        return model.get_layer(name).get_weights()[0]

    for name, fan_out in (
        ("block2b_dwconv2", 9),
        ("block2b_project_conv", 128),
        ("top_conv", 256),
        ("block1a_project_conv", 9 * 64),
    ):
        w = kernel(name)
        std = (2.0 / fan_out) ** 0.5
        assert w.std() == pytest.approx(std, rel=0.05), name
        assert np.abs(w).max() > 2.6 * std, name  # a truncated normal ends at 2.27 std
    classifier, bias = model.get_layer("predictions").get_weights()
    limit = 400**-0.5  # uniform within 1 / sqrt(classes)
    assert 0.98 * limit < np.abs(classifier).max() <= limit
    assert classifier.std() == pytest.approx(limit / 3**0.5, rel=0.05)
    assert not bias.any()
    assert not model.get_layer("block2b_se_reduce").get_weights()[1].any()
    gamma, beta, mean, variance = model.get_layer("top_bn").get_weights()
    assert (gamma == 1).all()
    assert (variance == 1).all()
    assert not beta.any()
    assert not mean.any()


def test_stochastic_depth_drops_examples_only_in_training(keras, tiny, tame):
    """In block2b, the only residual block, a dropped branch leaves the shortcut unchanged."""
    model = create_model(tiny, classes=3, drop_path_rate=0.9)
    tame(model)
    names = ("block2a_project_bn", "block2b_add")
    inside = keras.Model(model.input, [model.get_layer(n).output for n in names])
    for layer in inside.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.trainable = False  # otherwise batch statistics would change the shortcut
    x = np.random.default_rng(3).uniform(0, 255, (64, 32, 32, 3)).astype("float32")
    shortcut, out = (_numbers(t) for t in inside(x, training=True))
    dropped = (shortcut == out).all(axis=(1, 2, 3))
    assert model.get_layer("block2b_drop").rate == pytest.approx(0.9 * 2 / 3)
    assert 0.35 < dropped.mean() < 0.85
    shortcut, out = (_numbers(t) for t in inside(x, training=False))
    assert not (shortcut == out).all(axis=(1, 2, 3)).any()


def test_channels_first_builds_the_same_network(keras, small):
    last = create_model(small, classes=3, input_shape=(64, 48, 3))
    keras.backend.set_image_data_format("channels_first")
    first = create_model(small, classes=3, input_shape=(3, 64, 48))
    assert [w.shape for w in first.get_weights()] == [w.shape for w in last.get_weights()]
    assert create_model(small, classes=3).input_shape == (None, 3, 64, 64)
    height, width = 64 // 8, 48 // 8
    maps = create_model(small, include_top=False, input_shape=(3, 64, 48))
    assert maps.output_shape == (None, plan(small).head_filters, height, width)


@pytest.mark.jax_only("TensorFlow has no channels_first convolutions on a CPU")
def test_channels_first_gives_the_outputs_of_channels_last(keras, small, images, tame):
    last = create_model(small, classes=3, classifier_activation=None)
    tame(last)
    keras.backend.set_image_data_format("channels_first")
    first = create_model(small, classes=3, classifier_activation=None)
    first.set_weights(last.get_weights())
    x = images(64)
    np.testing.assert_allclose(
        _numbers(first(np.transpose(x, (0, 3, 1, 2)))), _numbers(last(x)), atol=1e-5
    )


def test_a_keras_file_restores_the_model(keras, small, images, tame, tmp_path):
    model = create_model(small, classes=3, name="mine")
    tame(model)
    model.save(tmp_path / "mine.keras")
    again = keras.models.load_model(tmp_path / "mine.keras")
    assert again.name == "mine"
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(_numbers(again(images(64))), _numbers(model(images(64))))


def test_json_restores_the_network(keras, small, images, tame):
    model = create_model(small, classes=3)
    tame(model)
    again = keras.models.model_from_json(model.to_json())
    assert json.loads(again.to_json()) == json.loads(model.to_json())
    again.set_weights(
        model.get_weights()
    )  # the normalization has no weights, so JSON must contain it
    np.testing.assert_array_equal(_numbers(again(images(64))), _numbers(model(images(64))))


LOAD = """
import sys
import numpy as np
x, want = (np.load(f"{n}.npy") for n in ("images", "outputs"))
import keras
have = {"keras": keras.models.load_model("mine.keras")(x)}
if %r:
    import tensorflow as tf
    exported = tf.saved_model.load("mine")
    have["savedmodel"] = exported.serve(x)
assert "keras_effnet" not in sys.modules
for what, outputs in have.items():
    print(what, np.abs(np.array(outputs) - want).max())
"""


@pytest.mark.slow
def test_saved_files_load_without_this_package(keras, tiny, images, tame, tmp_path, run_python):
    model = create_model(tiny, classes=3)
    tame(model)
    x = images(32)
    np.save(tmp_path / "images.npy", x)
    np.save(tmp_path / "outputs.npy", _numbers(model(x)))
    model.save(tmp_path / "mine.keras")
    on_tensorflow = _backend(keras) == "tensorflow"
    if on_tensorflow:
        _export(model, tmp_path / "mine")
    out = run_python(LOAD % on_tensorflow, with_package=False)
    off = dict(line.split() for line in out.splitlines() if line.startswith(("keras", "savedm")))
    assert set(off) == ({"keras", "savedmodel"} if on_tensorflow else {"keras"})
    assert max(map(float, off.values())) <= 1e-6


@pytest.fixture
def deep(tiny):
    """A network of 60 cheap blocks in one stage; XL's longest stage has 32."""
    return dataclasses.replace(tiny, stages=(Stage("fused", 3, 1, 1, 8, 60, 0.0),))


@pytest.mark.slow
@pytest.mark.tensorflow_only("a SavedModel is TensorFlow's")
def test_layer_names_after_z_can_be_exported(keras, deep, images, tame, tmp_path):
    """keras.applications continues with '{', which is invalid in TensorFlow scopes."""
    import tensorflow as tf

    stages = (dataclasses.replace(deep.stages[0], repeats=28),)
    model = create_model(dataclasses.replace(deep, stages=stages), classes=3)
    tame(model)
    assert model.get_layer("block1zb_project_conv")
    _export(model, tmp_path / "exported")
    again = tf.saved_model.load(str(tmp_path / "exported"))
    x = images(32)
    np.testing.assert_allclose(_numbers(again.serve(x)), _numbers(model(x)), atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.tensorflow_only("test_deep_networks_build_within_the_recursion_limit covers it")
def test_an_xl_keras_file_loads_within_the_recursion_limit(keras, images, tame, tmp_path):
    narrow = dataclasses.replace(VARIANTS["efficientnetv2-xl"], width=0.125)
    model = create_model(narrow, classes=3, input_shape=(32, 32, 3))
    tame(model)
    model.save(tmp_path / "xl.keras")
    again = keras.models.load_model(tmp_path / "xl.keras")
    np.testing.assert_array_equal(_numbers(again(images(32))), _numbers(model(images(32))))


def test_deep_networks_build_within_the_recursion_limit(keras, deep):
    """Keras traverses a network recursively; through XL's branches that is 1,012 calls deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        model = create_model(deep, classes=3)
    finally:
        sys.setrecursionlimit(limit)
    assert len(model.layers) > 240


def test_a_custom_variant_builds(keras, tiny, images):
    own = dataclasses.replace(tiny, name="own", family=V1, width=1.5, image_size=48)
    model = create_model(own, classes=2)
    assert model.name == "own"
    assert model(images(48)).shape == (2, 2)


def _backend(keras):
    return "tensorflow" if keras.__version__.startswith("2.") else keras.backend.backend()


def _export(model, path):
    """Without the output that Keras prints."""
    quiet = {"verbose": False} if "verbose" in inspect.signature(model.export).parameters else {}
    model.export(str(path), **quiet)
