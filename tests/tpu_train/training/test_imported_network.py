import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest

from tpu_train.training import imported_network
from tpu_train.training.imported_network import network_of_file, network_of_function

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3)).astype(np.float32)
GUIDE = pathlib.Path(__file__).parents[3] / "docs" / "any-network.md"


def small_network(weights=None, input_tensor=None, classes=5, classifier_activation="softmax"):
    """A network like those of keras.applications, on pixels as its preprocess_input makes them."""
    assert weights in (None, "imagenet")
    image = keras.Input((None, None, 3)) if input_tensor is None else input_tensor
    x = keras.layers.ZeroPadding2D(1, name="pad")(image)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    network = keras.Model(image, x, name="small")
    if weights == "imagenet":
        network.get_layer("conv").set_weights([np.full((3, 3, 3, 4), 0.5), np.zeros(4)])
    return network


def preprocess_bgr(pixels):
    return pixels[..., ::-1] - np.float32([103.939, 116.779, 123.68])


@pytest.fixture
def module(monkeypatch):
    """A module like keras.applications.resnet: BGR images, with other means than 127.5."""
    module = types.ModuleType("small_networks")
    module.small_network = small_network
    module.preprocess_input = preprocess_bgr
    monkeypatch.setitem(sys.modules, "small_networks", module)
    monkeypatch.setattr(small_network, "__module__", "small_networks")
    return "small_networks:small_network"


@pytest.fixture
def trained():
    """The network with 5 classes and random weights in all layers."""
    network = small_network(classifier_activation=None)
    random = np.random.default_rng(1)
    network.set_weights([random.uniform(0.1, 1, w.shape) for w in network.get_weights()])
    return network


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("name", ["w.keras", "w.weights.h5", "w.h5"])
def test_a_weight_file_of_bgr_images_gives_the_same_logits(module, trained, tmp_path, name):
    path = str(tmp_path / name)
    trained.save_weights(path) if name == "w.weights.h5" else trained.save(path)
    network = network_of_function(module, 5, [40], path)
    expected = np.asarray(trained(preprocess_bgr(PIXELS.copy())))
    np.testing.assert_allclose(np.asarray(network(PIXELS)), expected, rtol=1e-4)
    other = network_of_function(module, 3, [32, 40], path)  # other classes: a new head
    assert (other.input_shape, other.output_shape) == ((None, None, None, 3), (None, 3))
    features = [np.asarray(keras.Model(n.inputs[0], n.get_layer("pool").output)(PIXELS))
                for n in (network, other)]  # fmt: skip
    np.testing.assert_array_equal(*features)


def test_a_trained_model_is_a_weight_file_with_rgb_images(module, trained, tmp_path):
    first, second = str(tmp_path / "first.keras"), str(tmp_path / "second.keras")
    trained.save(first)
    network = network_of_function(module, 5, [40], first)
    network.save(second)
    again = network_of_function(module, 5, [40], second)
    np.testing.assert_array_equal(np.asarray(again(PIXELS)), np.asarray(network(PIXELS)))


def test_a_name_of_weights_is_given_to_the_function(module):
    network = network_of_function(module, 3, [40], "imagenet")
    assert (network.get_layer("conv").get_weights()[0] == 0.5).all()
    assert network.output_shape == (None, 3)


def test_weights_of_another_network_are_an_error(module, tmp_path):
    image = keras.Input((8, 8, 3))
    path = str(tmp_path / "other.weights.h5")
    keras.Model(image, keras.layers.Conv2D(7, 5)(image)).save_weights(path)
    with pytest.raises(ValueError, match=r"other.weights.h5' are not those of this network"):
        network_of_function(module, 5, [40], path)


def _saved(tmp_path, *layers, size=None):
    path = str(tmp_path / "model.keras")
    keras.Sequential([keras.Input((size, size, 3)), *layers]).save(path)
    return path


def test_a_file_with_a_nested_backbone_keeps_its_features(tmp_path):
    backbone = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, name="conv")], name="backbone"
    )
    layers = keras.layers
    path = _saved(
        tmp_path,
        layers.Rescaling(1 / 255),
        backbone,
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, activation="softmax", name="scores"),
        size=32,
    )
    same = network_of_file(path, 5, [32, 40])
    scores = np.asarray(keras.models.load_model(path)(PIXELS[:, :32, :32]))
    logits = np.asarray(same(PIXELS[:, :32, :32]))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(softmax, scores, rtol=1e-4)
    assert "conv" in [layer.name for layer in same.layers]  # not nested
    assert network_of_file(path, 3, [40]).output_shape == (None, 3)


@pytest.mark.parametrize("separate", [False, True])
def test_a_convolution_as_classifier_is_replaced(tmp_path, separate):
    layers = keras.layers
    tail = [layers.Flatten(), layers.Activation("softmax")]
    if separate:
        tail = [layers.GlobalAveragePooling2D(), layers.Softmax()]
    negative = keras.initializers.Constant(-1e4)
    head = layers.Conv2D(5, 1, bias_initializer=negative, name="logits")
    start = [] if separate else [layers.GlobalAveragePooling2D(keepdims=True)]
    path = _saved(tmp_path, layers.Conv2D(4, 3), *start, head, *tail)
    same = network_of_file(path, 5, [32, 40])
    assert np.asarray(same(PIXELS)).max() < 0  # logits
    assert network_of_file(path, 3, [32, 40]).output_shape == (None, 3)


def test_a_network_of_one_image_size_names_it(tmp_path):
    layers = keras.layers
    path = _saved(tmp_path, layers.Flatten(), layers.Dense(5), size=8)
    assert network_of_file(path, 3, [8]).input_shape == (None, 8, 8, 3)
    with pytest.raises(ValueError, match=r"images of 32 and 40 px .takes images of 8 px"):
        network_of_file(path, 3, [32, 40])


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "x.keras"
    path.write_text("no model")
    with pytest.raises(ValueError, match=r"--model=.*x.keras cannot be loaded"):
        network_of_file(str(path), 3, [32])


def test_the_example_of_the_guide_follows_the_contract(tmp_path, monkeypatch):
    code = re.search(r"```python\n(# my_network.py\n.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 11
    (tmp_path / "my_network.py").write_text(code)
    monkeypatch.chdir(tmp_path)  # a file in the current folder, as for the command
    try:
        network = imported_network.network_of_function("my_network:build", 3, [32, 40])
    finally:
        sys.modules.pop("my_network", None)
    assert network.output_shape == (None, 3)
    assert [type(layer).__name__ for layer in network.layers][1] == "Rescaling"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_networks_of_keras_applications_keep_their_logits(name, tmp_path):
    function = getattr(keras.applications, name)
    image = keras.Input((64, 64, 3))
    reference = function(weights=None, input_tensor=image, classes=7, classifier_activation=None)
    random = np.random.default_rng(1)
    reference.set_weights(
        [w + 0.05 * random.standard_normal(w.shape) * (w.ndim > 1) for w in reference.get_weights()]
    )
    path = str(tmp_path / "reference.weights.h5")
    reference.save_weights(path)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    preprocess = sys.modules[function.__module__].preprocess_input
    expected = np.asarray(reference([preprocess(pixels.copy())]))
    network = network_of_function(f"keras.applications:{name}", 7, [64], path)
    outputs = np.asarray(network(pixels))
    assert np.abs(outputs - expected).max() < 1e-4 * expected.std()
