import numpy as np
import pytest

import keras_effnet
from keras_effnet.constructors import create_model
from keras_effnet.feature_pyramid import features
from keras_effnet.finetuning import freeze, layer_groups, layer_rates, with_new_head
from keras_effnet.image_preprocessing import preprocessing
from keras_effnet.image_size import change_image_size
from keras_effnet.pretrained import download
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS
from keras_effnet.saliency import grad_cam

pytestmark = pytest.mark.every_stack


@pytest.fixture
def no_download(monkeypatch):
    """Downloads fail the test: arguments must be checked before."""

    def refuse(*args, **kwargs):
        raise AssertionError("a download was begun")

    monkeypatch.setattr(download, "fetch", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes 0 "),
        ({"classes": -3}, "classes -3 "),
        ({"classes": True}, "classes True "),
        ({"classes": "10"}, "classes '10' "),
        ({"classes": 10.0}, "classes 10.0 "),
        ({"pooling": "mean"}, "pooling 'mean' .* 'avg' or 'max'"),
        ({"input_shape": (31, 64, 3)}, "input_shape .31, 64, 3. is too small.* 32 pixels"),
        ({"input_shape": (64, 31, 3)}, "too small"),
        ({"input_shape": (1, 64, 64, 3)}, "has 4 numbers.*without the batch"),
        ({"input_shape": (64, 64)}, "has 2 numbers"),
        ({"input_shape": (64, 64, None)}, "lacks the number of channels"),
        ({"input_shape": (64, 64, 0)}, "lacks the number of channels"),
        ({"input_shape": 64}, "input_shape 64 is not a shape"),
        ({"input_shape": "64"}, "not a shape"),
        ({"input_shape": (64.0, 64, 3)}, "not a shape"),
        ({"drop_path_rate": 1.0}, "drop_path_rate 1.0 "),
        ({"drop_path_rate": -0.1}, "drop_path_rate -0.1 "),
        ({"dropout_rate": 2}, "dropout_rate 2 "),
        ({"dropout_rate": "0.2"}, "dropout_rate '0.2' "),
    ],
)
def test_invalid_arguments_are_errors_before_downloading(no_download, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("efficientnetv2-b0", weights="imagenet", **arguments)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("efficientnetb3", "Unknown model 'efficientnetb3'. Did you mean 'efficientnet-b3'"),
        ("resnet18", "Unknown model 'resnet18'. Did you mean 'resnet50'"),
        (7, "Unknown model 7"),
    ],
)
def test_an_unknown_model_names_the_nearest(model, message):
    with pytest.raises(ValueError, match=message):
        create_model(model)


def test_input_tensor_and_shape_must_agree(keras, tiny):
    for tensor, shape in (
        ((64, 64, 3), (64, 64, 3)),
        ((None, None, 3), (64, 64, 3)),
        ((64, 48, 3), [None, None, 3]),
    ):
        model = create_model(tiny, input_tensor=keras.Input(tensor), input_shape=shape)
        assert model.input_shape == (None, *tensor)
    for shape in ((64, 48, 3), (64, 64, 1)):
        with pytest.raises(ValueError, match=r"differs from the shape .* of input_tensor"):
            create_model(tiny, input_tensor=keras.Input((64, 64, 3)), input_shape=shape)


@pytest.mark.parametrize("shape", [(64, 3), (16, 64, 3), (64, 64, None)])
def test_invalid_input_tensors_are_errors(keras, tiny, shape):
    with pytest.raises(ValueError, match="input_tensor of shape"):
        create_model(tiny, input_tensor=keras.Input(shape))


def test_an_array_as_input_tensor_is_an_error(keras, tiny):
    with pytest.raises(ValueError, match="ndarray"):
        create_model(tiny, input_tensor=np.zeros((1, 64, 64, 3), "float32"))


def test_a_wrong_channel_order_is_an_error(keras, tiny):
    keras.backend.set_image_data_format("channels_first")
    for shape, give in (((64, 64, 3), "(3, 64, 64)"), ((None, None, 5), "(5, None, None)")):
        with pytest.raises(ValueError, match="looks like channels_last") as error:
            create_model(tiny, input_shape=shape)
        assert give in str(error.value)
    keras.backend.set_image_data_format("channels_last")
    for shape in ((3, 64, 64), (1, 64, 48), (3, None, None)):
        with pytest.raises(ValueError, match="looks like channels_first"):
            create_model(tiny, input_shape=shape)
    with pytest.raises(ValueError, match="looks like channels_first"):
        create_model(tiny, input_tensor=keras.Input((3, 64, 64)))
    with pytest.raises(ValueError, match="too small"):
        create_model(tiny, input_shape=(16, 64, 3))


def test_numpy_integers_are_accepted(keras, tiny):
    labels = np.array([0, 1, 2, 2])
    classes = len(np.unique(labels)) * np.int64(1)
    assert create_model(tiny, classes=classes).output_shape == (None, 3)
    size = np.int32(48)
    assert create_model(tiny, classes=2, input_shape=[size, size, 3]).input_shape[1] == 48


def test_classes_are_ignored_without_the_classifier(keras, tiny):
    assert create_model(tiny, include_top=False, classes=None).output_shape[-1] == 32


@pytest.mark.parametrize("function", ["EfficientNetB8", "EfficientNetL2", "EfficientNetV2XL"])
def test_unreleased_weights_name_the_released_ones(no_download, function):
    """They have keras.applications' default "imagenet", which was never released for them."""
    with pytest.raises(ValueError, match=r"Unknown weights 'imagenet'.*auto.*weights=None"):
        getattr(keras_effnet, function)()


def test_an_unknown_classifier_activation_is_an_error(keras, tiny):
    with pytest.raises(ValueError, match="sofmax"):
        create_model(tiny, classifier_activation="sofmax")


def test_constructors_pass_on_every_argument(keras, monkeypatch):
    """Every argument of V1 and V2 constructors reaches create_model under the same name."""
    import inspect

    from keras_effnet import constructors

    received = {}

    def record(model, **arguments):
        received.clear()
        received.update(arguments, model=model)

    monkeypatch.setattr(constructors, "create_model", record)
    for function, variant in (
        (keras_effnet.EfficientNetB3, "efficientnet-b3"),
        (keras_effnet.EfficientNetLite1, "efficientnet-lite1"),
        (keras_effnet.EfficientNetV2M, "efficientnetv2-m"),
    ):
        arguments = {name: object() for name in inspect.signature(function).parameters}
        function(**arguments)
        assert received == {**arguments, "model": variant}


def test_importing_the_package_imports_neither_keras_nor_tensorflow(run_python):
    out = run_python(
        "import sys, keras_effnet\n"
        "keras_effnet.list_models(); keras_effnet.plan('efficientnet-b0')\n"
        "keras_effnet.cost('efficientnet-b0')\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch', 'PIL'} & set(sys.modules)))",
        with_package=True,
    )
    assert out.strip() == "[]"


def test_the_models_name_does_not_select_the_weights(keras, monkeypatch):
    """keras.applications' V1 downloads `x.h5` for a model named x."""
    asked = []

    def fetch(url, path, md5):
        asked.append((url, path.name, md5))
        raise RuntimeError("enough")

    monkeypatch.setattr(download, "fetch", fetch)
    row = PRETRAINED_WEIGHTS["efficientnet-b0", "imagenet"]
    for top, url, md5 in ((True, row.url, row.md5), (False, row.notop_url, row.notop_md5)):
        with pytest.raises(RuntimeError, match="enough"):
            keras_effnet.EfficientNetB0(include_top=top, name="x")
        assert asked.pop() == (url, url.rsplit("/")[-1], md5)


def test_networks_with_a_name_prefix_are_joined_in_one_model(keras, tiny, tmp_path, images):
    create_model(tiny, input_shape=(32, 32, 3)).save(tmp_path / "w.keras")
    options = {"include_top": False, "pooling": "avg", "weights": tmp_path / "w.keras"}
    left = create_model(tiny, input_shape=(32, 32, 3), name_prefix="left_", **options)
    scaled = keras.layers.Rescaling(1.0, name="mine")(keras.Input((32, 32, 3)))
    right = create_model(tiny, input_tensor=scaled, name_prefix="right_", **options)
    plain = create_model(tiny, input_shape=(32, 32, 3), **options)
    joined = keras.Model(
        [left.input, right.input], keras.layers.concatenate([left.output, right.output])
    )
    assert joined.get_layer("mine")
    assert preprocessing(left) == preprocessing(plain)
    joined.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    want = np.tile(np.asarray(plain(images(32), training=False)), 2)
    for model in (joined, loaded):
        have = np.asarray(model([images(32), images(32)], training=False))
        np.testing.assert_allclose(have, want, atol=1e-6)
    pixels = keras.Input((32, 32, 3))
    called = keras.Model(pixels, keras.layers.concatenate([left(pixels), right(pixels)]))
    assert (left.name, right.name) == ("left_tiny", "right_tiny")
    np.testing.assert_allclose(np.asarray(called(images(32), training=False)), want, atol=1e-6)
    with pytest.raises(ValueError, match=r"2 EfficientNets .*layers left_.*layers right_"):
        freeze(joined)


@pytest.mark.parametrize("prefix", ["a/", 5])
def test_a_name_prefix_that_keras_cannot_load_is_an_error(tiny, prefix):
    with pytest.raises(ValueError, match="is not text without slashes"):
        create_model(tiny, name_prefix=prefix)


def test_a_network_with_a_name_prefix_is_found(keras, tiny, tame, images):
    options = {"classes": 3, "input_shape": (64, 64, 3)}
    plain, model = create_model(tiny, **options), create_model(tiny, name_prefix="a_", **options)
    tame(plain)
    model.set_weights(plain.get_weights())
    pixels = images(64)
    assert freeze(model, "block1") == freeze(plain, "block1")
    trained = [w.shape for w in plain.trainable_weights]
    assert [w.shape for w in model.trainable_weights] == trained
    rates = layer_rates(plain, 0.1)
    assert layer_rates(model, 0.1) == {f"a_{name}": rate for name, rate in rates.items()}
    for level in (2, 1):
        have, want = (np.asarray(features(m, level)(pixels)) for m in (model, plain))
        np.testing.assert_array_equal(have, want)
    resized = change_image_size(model, 96)
    assert resized.input_shape == (None, 96, 96, 3)
    have, want = (m(images(96), training=False) for m in (resized, change_image_size(plain, 96)))
    np.testing.assert_array_equal(np.asarray(have), np.asarray(want))
    for outer in (model, keras.Sequential([keras.Input((64, 64, 3)), model])):
        np.testing.assert_array_equal(grad_cam(outer, pixels), grad_cam(plain, pixels))
    new = with_new_head(model, 5, name_prefix="b_")
    assert new.output_shape == (None, 5)
    assert [layer.name for layer in layer_groups(new)["head"]][-1] == "b_predictions"


def test_a_new_head_beside_the_old_one(keras, tiny, images):
    model = create_model(tiny, classes=3, input_shape=(32, 32, 3))
    new = with_new_head(model, 2, name_prefix="new_")
    both = keras.Model(model.input, [model.output, new.output])
    assert [x.name for x in both.layers if x.name.endswith("predictions")] == [
        "predictions",
        "new_predictions",
    ]
    freeze(new)
    assert len(new.trainable_variables) == 2
    old, _ = both(images(32), training=False)
    np.testing.assert_array_equal(np.asarray(old), np.asarray(model(images(32), training=False)))
