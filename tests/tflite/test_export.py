import keras
import numpy as np
import pytest
import tensorflow as tf

import tflite
from keras_effnet.litert import runner, runtime
from tflite import export


def test_batch_is_one_and_the_signature_has_names(float_content):
    interpreter = runtime.interpreter(float_content)
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [1, 32, 32, 3]
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["scores"]}
    }


def test_scores_equal_those_of_the_model(model, float_content, images):
    got = runner.scores(float_content, images)
    np.testing.assert_allclose(got, model(images.astype("float32"), training=False), atol=1e-6)


def test_image_size_fixes_an_open_size(tiny, build):
    content = tflite.export_float32(build(tiny, input_shape=(None, None, 3)), image_size=(40, 48))
    interpreter = runtime.interpreter(content)
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 40, 48, 3]


def test_an_open_size_without_image_size_is_an_error(tiny, build):
    with pytest.raises(ValueError, match=r"takes any image size.*give image_size"):
        tflite.export_float32(build(tiny, input_shape=(None, None, 3)))


@pytest.mark.parametrize("size", [64, 0, -3, 32.5, (32, 32, 3), (32, 64)])
def test_an_image_size_that_does_not_fit_is_an_error(model, size):
    with pytest.raises(ValueError, match="image_size"):
        tflite.export_float32(model, image_size=size)


def test_outputs_of_any_shape_and_number_are_exported():
    image = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3)(image)
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    unit = keras.layers.Dense(1, name="unit")(vector)
    for outputs, want in (
        (maps, {"scores": (1, 14, 14, 4)}),
        (unit, {"scores": (1, 1)}),
        ([unit, maps], {"unit": (1, 1), "conv": (1, 14, 14, 4)}),
        ({"b": unit, "a": vector}, {"a": (1, 4), "b": (1, 1)}),
    ):
        model = keras.Model(image, outputs)
        content = tflite.export_float32(model)  # checks the values
        (got,) = runner.signature_outputs(content, np.zeros((1, 16, 16, 3), np.float32))
        assert sorted(value.shape for value in got.values()) == sorted(want.values())
        assert len(got) == len(want)


def test_gradients_are_not_exported():
    """Saving them would trace the gradient of every swish."""

    @tf.custom_gradient
    def twice(value):
        def gradient(upstream):
            raise AssertionError("the gradient was traced")

        return 2 * value, gradient

    class Twice(keras.layers.Layer):
        def call(self, value):
            return twice(value)

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(Twice()(image)))
    tflite.export_float32(model)  # checks the values


def test_two_inputs_are_an_error_that_names_them():
    inputs = [keras.Input((8, 8, 3), name="photo"), keras.Input((2,), name="place")]
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(inputs[0]), inputs[1]])
    with pytest.raises(ValueError, match=r"photo.*place.*gets one image"):
        tflite.export_float32(keras.Model(inputs, joined))


def test_grey_images_are_exported_and_other_channels_are_an_error(tiny, build):
    content = tflite.export_float32(build(tiny, input_shape=(32, 32, 1)))
    assert runtime.input_shape(content) == (32, 32, 1)
    with pytest.raises(ValueError, match=r"\(32, 32, 5\).*RGB"):
        export.image_shape(build(tiny, input_shape=(32, 32, 5), include_preprocessing=False))


def test_another_backend_is_an_error(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"runs on jax.*KERAS_BACKEND=tensorflow"):
        tflite.export_float32(model)


def test_any_keras_classifier_converts():
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    content = tflite.export_float32(model)  # checks the scores
    assert runner.scores(content, np.zeros((1, 16, 16, 3))).shape == (1, 2)


def test_a_model_without_shapes_is_an_error():
    with pytest.raises(ValueError, match="give a functional model"):
        tflite.export_float32(keras.Sequential([keras.layers.Dense(2)]))


def test_models_with_list_or_dict_inputs_convert():
    image = keras.Input((16, 16, 3), name="image")
    scores = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(image))
    for model in (keras.Model([image], [scores]), keras.Model({"image": image}, {"s": scores})):
        content = tflite.export_float32(model)  # checks the scores
        assert runner.scores(content, np.zeros((1, 16, 16, 3))).shape == (1, 2)


def test_mixed_precision_is_exported_as_float32(tiny):
    import keras_effnet

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = keras_effnet.create_model(tiny, classes=10, input_shape=(32, 32, 3))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    content = tflite.export_float32(model)
    assert {op.dtype for op in tflite.read_ops(content)} == {"FLOAT32"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("outer", ["functional", "sequential"])
def test_mixed_precision_of_a_nested_network_is_exported_as_float32(tiny, policy, outer):
    import keras_effnet

    keras.mixed_precision.set_global_policy(policy)
    try:
        options = {"include_top": False, "input_shape": (32, 32, 3), "pooling": "avg"}
        backbone = keras_effnet.create_model(tiny, **options)
        head = keras.layers.Dense(3, activation="softmax", dtype="float32")
        image = keras.Input((32, 32, 3))
        if outer == "functional":
            model = keras.Model(image, head(backbone(image)))
        else:
            model = keras.Sequential([image, backbone, head])
        content = tflite.export_float32(model)  # compares the scores with those of the copy
        assert keras.mixed_precision.global_policy().name == policy
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {op.dtype for op in tflite.read_ops(content)} == {"FLOAT32"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(runner.scores(content, images), model(images), atol=0.02)


def test_a_model_of_two_replicas_converts(tiny):
    import keras_effnet

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = keras_effnet.create_model(tiny, classes=10, input_shape=(32, 32, 3))
    content = tflite.export_float32(model)  # checks the scores
    assert runner.scores(content, np.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_a_file_without_weights_is_an_error(model):
    """from_concrete_functions silently writes such a file for a Keras 3 model."""
    if not hasattr(keras, "Variable"):
        pytest.skip("Keras 2: from_concrete_functions works there")
    serve = tf.function(lambda images: model(images, training=False)).get_concrete_function(
        tf.TensorSpec((1, 32, 32, 3), tf.float32)
    )
    with runtime.native_log_hidden():
        content = tf.lite.TFLiteConverter.from_concrete_functions([serve], model).convert()
    with pytest.raises(tflite.ConversionError, match="READ_VARIABLE"):
        export.check_float(content, model, (32, 32, 3))


def test_a_file_with_too_few_weights_is_an_error(tiny, build, float_content):
    wide = build(tiny, classes=400)
    with pytest.raises(tflite.ConversionError, match="weights are missing"):
        export.check_float(float_content, wide, (32, 32, 3))


def test_a_file_with_other_scores_is_an_error(tiny, build, logits_content):
    with pytest.raises(tflite.ConversionError, match=r"differs from the model by"):
        export.check_float(logits_content, build(tiny), (32, 32, 3))


def test_a_diverged_model_is_an_error(tiny):
    import keras_effnet

    model = keras_effnet.create_model(tiny, classes=10, input_shape=(32, 32, 3))
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(tflite.ConversionError, match=r"(?i)nan"):
        tflite.export_float32(model)
