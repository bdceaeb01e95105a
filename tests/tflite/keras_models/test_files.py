import keras
import numpy as np
import pytest
import tensorflow as tf

import tflite
from keras_effnet.litert import runner, runtime


def test_a_saved_model_folder_is_exported(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    module = tf.Module()
    module.parts = [v.value if hasattr(keras, "Variable") else v for v in model.variables]
    spec = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="photo")
    module.serve = tf.function(lambda photo: {"y": model(photo)}, input_signature=[spec])
    with runtime.native_log_hidden():
        tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
        tf.saved_model.save(module, str(tmp_path / "none"), signatures={"other": module.serve})
    content = tflite.export_float32(tflite.load_keras(tmp_path / "saved"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(runner.scores(content, pixels), model(pixels), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"signatures \['other'\]; it needs serving_default"):
        tflite.load_keras(tmp_path / "none")


def test_a_model_file_that_cannot_be_loaded_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        tflite.load_keras(tmp_path / "none.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"broken\.keras.*truncated, or of another format"):
        tflite.load_keras(tmp_path / "broken.keras")
    encrypted = tmp_path / "encrypted.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(encrypted)
    content = bytearray(encrypted.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + flags] |= 1
    encrypted.write_bytes(content)
    with pytest.raises(ValueError, match=r"encrypted\.keras cannot be read as a \.keras file"):
        tflite.load_keras(encrypted)
    (tmp_path / "best.json").write_text("{}")  # of a search
    with pytest.raises(ValueError, match=r"has no weights: .* effnet-train --model=.*best\.json"):
        tflite.load_keras(tmp_path / "best.json")


def _double(x):
    return 2 * x


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_missing_code_of_a_file_is_named_with_the_way_out(tmp_path, ending):
    import keras

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    registered = keras.saving.register_keras_serializable("test")(
        type("Registered", (Doubled,), {})
    )
    for layer, name in (
        (Doubled(), "Doubled"),
        (registered(), "Registered"),
        (keras.layers.Activation(_double), "_double"),
    ):
        path = str(tmp_path / f"m{ending}")
        keras.Sequential([keras.Input((8, 8, 3)), layer]).save(path)
        keras.utils.get_custom_objects().clear()
        with pytest.raises(ValueError, match=rf"{name}' is not in the file.*--module=my_layers"):
            tflite.load_keras(path)
        tflite.load_keras(path, {"Doubled": Doubled, "test>Registered": registered,
                                 "_double": _double})  # fmt: skip


def test_a_lambda_layer_is_named_with_the_way_out(tmp_path):
    import keras

    layer = keras.layers.Lambda(lambda x: 2 * x, output_shape=(8, 8, 3))
    keras.Sequential([keras.Input((8, 8, 3)), layer]).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"a Lambda layer, .* is not run\. .*model\.export"):
        tflite.load_keras(tmp_path / "m.keras")


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 8, 8, 3), r"shape \(4, 8, 8, 3\): export"), (None, "for any batch")]
)
def test_a_saved_model_of_another_batch_is_an_error(tmp_path, shape, message):
    serve = tf.function(lambda images: {"scores": tf.reduce_mean(images, (1, 2))})
    signature = serve.get_concrete_function(tf.TensorSpec(shape, name="images"))
    with runtime.native_log_hidden():
        signatures = {"serving_default": signature}
        tf.saved_model.save(tf.Module(), str(tmp_path), signatures=signatures)
    with pytest.raises(ValueError, match=message):
        tflite.load_keras(tmp_path)


def test_a_damaged_saved_model_is_an_error(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"xx")
    with pytest.raises(ValueError, match=r"SavedModel .* cannot be loaded: ") as raised:
        tflite.load_keras(tmp_path)
    assert "\n" not in str(raised.value)
