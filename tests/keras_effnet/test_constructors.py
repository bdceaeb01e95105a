import numpy as np
import pytest

import keras_effnet
from keras_effnet.constructors import create_model
from keras_effnet.pretrained import files as weights_module
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS


@pytest.fixture
def no_download(monkeypatch):
    """Whoever asks the network fails: bad input must be told before."""

    def refuse(*args, **kwargs):
        raise AssertionError("a download was begun")

    monkeypatch.setattr(weights_module.download, "fetch", refuse)


@pytest.mark.parametrize(
    ("arguments", "said"),
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
        ({"input_shape": (64, 64, None)}, "no channel count"),
        ({"input_shape": (64, 64, 0)}, "no channel count"),
        ({"input_shape": 64}, "input_shape 64 is not a shape"),
        ({"input_shape": "64"}, "not a shape"),
        ({"input_shape": (64.0, 64, 3)}, "not a shape"),
        ({"drop_path_rate": 1.0}, "drop_path_rate 1.0 "),
        ({"drop_path_rate": -0.1}, "drop_path_rate -0.1 "),
        ({"dropout_rate": 2}, "dropout_rate 2 "),
        ({"dropout_rate": "0.2"}, "dropout_rate '0.2' "),
    ],
)
def test_bad_arguments_are_told_before_anything_slow(no_download, arguments, said):
    with pytest.raises(ValueError, match=said):
        create_model("efficientnetv2-b0", weights="imagenet", **arguments)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("efficientnetb3", "Unknown model 'efficientnetb3'. Did you mean 'efficientnet-b3'"),
        ("resnet50", "Unknown model 'resnet50'. Known: "),
        (7, "Unknown model 7"),
    ],
)
def test_an_unknown_model_names_the_nearest(model, said):
    with pytest.raises(ValueError, match=said):
        create_model(model)


def test_tensor_and_shape_together_are_refused(keras, tiny):
    with pytest.raises(ValueError, match="input_tensor and input_shape were both given"):
        create_model(tiny, input_tensor=keras.Input((64, 64, 3)), input_shape=(64, 64, 3))


@pytest.mark.parametrize("shape", [(64, 3), (16, 64, 3), (64, 64, None)])
def test_a_tensor_that_cannot_work_is_refused(keras, tiny, shape):
    with pytest.raises(ValueError, match="input_tensor of shape"):
        create_model(tiny, input_tensor=keras.Input(shape))


def test_an_array_is_no_keras_tensor(keras, tiny):
    with pytest.raises(ValueError, match="ndarray"):
        create_model(tiny, input_tensor=np.zeros((1, 64, 64, 3), "float32"))


def test_a_wrong_channel_order_is_told(keras, tiny):
    keras.backend.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match="too small"):
        create_model(tiny, input_shape=(64, 64, 3))


def test_numpys_whole_numbers_are_numbers(keras, tiny):
    labels = np.array([0, 1, 2, 2])
    classes = len(np.unique(labels)) * np.int64(1)
    assert create_model(tiny, classes=classes).output_shape == (None, 3)
    size = np.int32(48)
    assert create_model(tiny, classes=2, input_shape=[size, size, 3]).input_shape[1] == 48


def test_classes_are_no_matter_without_the_classifier(keras, tiny):
    assert create_model(tiny, include_top=False, classes=None).output_shape[-1] == 32


@pytest.mark.parametrize("function", ["EfficientNetB8", "EfficientNetL2", "EfficientNetV2XL"])
def test_a_set_that_was_never_released_names_those_that_were(no_download, function):
    """Their default is keras.applications' default, and there is nothing behind it."""
    with pytest.raises(ValueError, match=r"Unknown weights 'imagenet'.*auto.*weights=None"):
        getattr(keras_effnet, function)()


def test_an_unknown_classifier_activation_is_refused(keras, tiny):
    with pytest.raises(ValueError, match="sofmax"):
        create_model(tiny, classifier_activation="sofmax")


def test_functions_hand_everything_on(keras, monkeypatch):
    """Every argument of both generations reaches create_model under its own name."""
    import inspect

    from keras_effnet import constructors

    seen = {}

    def record(model, **arguments):
        seen.clear()
        seen.update(arguments, model=model)

    monkeypatch.setattr(constructors, "create_model", record)
    for function, variant in (
        (keras_effnet.EfficientNetB3, "efficientnet-b3"),
        (keras_effnet.EfficientNetLite1, "efficientnet-lite1"),
        (keras_effnet.EfficientNetV2M, "efficientnetv2-m"),
    ):
        arguments = {name: object() for name in inspect.signature(function).parameters}
        function(**arguments)
        assert seen == {**arguments, "model": variant}


def test_importing_the_package_imports_neither_keras_nor_tensorflow(run_python):
    out = run_python(
        "import sys, keras_effnet\n"
        "keras_effnet.list_models(); keras_effnet.plan('efficientnet-b0')\n"
        "keras_effnet.cost('efficientnet-b0')\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch', 'PIL'} & set(sys.modules)))",
        with_package=True,
    )
    assert out.strip() == "[]"


def test_weights_are_found_by_the_variants_name_whatever_the_models_name(keras, monkeypatch):
    """keras.applications' V1 asks for `x.h5` when the model is called x."""
    asked = []

    def fetch(url, path, md5):
        asked.append((url, path.name, md5))
        raise RuntimeError("enough")

    monkeypatch.setattr(weights_module.download, "fetch", fetch)
    row = PRETRAINED_WEIGHTS["efficientnet-b0", "imagenet"]
    for top, url, md5 in ((True, row.url, row.md5), (False, row.notop_url, row.notop_md5)):
        with pytest.raises(RuntimeError, match="enough"):
            keras_effnet.EfficientNetB0(include_top=top, name="x")
        assert asked.pop() == (url, url.rsplit("/")[-1], md5)
