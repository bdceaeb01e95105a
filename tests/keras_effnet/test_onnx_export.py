import copy

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.finetuning import with_new_head
from keras_effnet.image_size import change_image_size
from keras_effnet.onnx_export import export_onnx
from keras_effnet.scaling import scale


@pytest.fixture
def run(keras, tmp_path):
    """run(export, images): the outputs in ONNX Runtime, given the image alone."""
    for package in ("tf2onnx", "onnx"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    if keras.__version__.startswith("2.") or keras.backend.backend() != "tensorflow":
        pytest.skip("needs Keras 3 on TensorFlow")

    def run(export, *batches):
        export(str(tmp_path / "m.onnx"))
        session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
        (image,) = session.get_inputs()
        return [session.run(None, {image.name: batch})[0] for batch in batches]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnetv2-b0", "efficientnet-lite0"])
def test_onnx_runtime_gives_the_models_outputs(keras, run, tame, images, name):
    variant = scale(name, width=0.3, depth=0.3)
    model = create_model(variant, classes=5, input_shape=(None, None, 3))
    tame(model)
    batches = [images(64, 96), images(65, 33, count=1), images(64)]
    bits = [model.predict(batch, verbose=0) for batch in batches]
    for have, want in zip(run(lambda p: model.export(p, format="onnx"), *batches), bits):
        np.testing.assert_allclose(have, want, atol=1e-4)
    for batch, want in zip(batches, bits):
        np.testing.assert_array_equal(model.predict(batch, verbose=0), want)


@pytest.mark.slow
def test_models_made_from_others_export_with_the_image_alone(
    keras, run, tiny, tame, images, tmp_path
):
    model = create_model(tiny, classes=3, input_shape=(32, 48, 3))
    tame(model)
    model.save(tmp_path / "m.keras")
    batch = images(32, 48)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    norm = keras.layers.Normalization()
    norm.adapt(batch)
    bare = create_model(tiny, include_preprocessing=False, input_shape=(32, 48, 3), classes=3)
    around = keras.Sequential([keras.Input((32, 48, 3)), norm, bare])
    for network, export in (
        (loaded, lambda p: export_onnx(loaded, p)),
        (around, lambda p: export_onnx(around, p)),
        (with_new_head(model, 2), None),
        (change_image_size(model, (32, 48)), None),
    ):
        export = export or (lambda p, n=network: n.export(p, format="onnx"))
        (have,) = run(export, batch)
        np.testing.assert_allclose(have, np.asarray(network(batch)), atol=1e-4)


@pytest.mark.slow
def test_a_mixed_precision_model_is_exported_in_float32(keras, run, tiny, tame, images):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = create_model(tiny, classes=3)
    tame(model)
    batch = images(32)
    for export in (lambda p: model.export(p, format="onnx"), lambda p: export_onnx(model, p)):
        (have,) = run(export, batch)
        assert have.dtype == np.float32
        np.testing.assert_allclose(have, np.asarray(model(batch), "float32"), atol=0.02)


@pytest.mark.every_stack
def test_only_onnx_files_are_overwritten(keras, tiny, tmp_path):
    if keras.__version__.startswith("2."):
        pytest.skip("needs Keras 3")
    path = tmp_path / "m.keras"
    model = create_model(tiny, classes=3)
    model.save(path)
    content = path.read_bytes()
    for export in (export_onnx, lambda m, p: m.export(p, format="onnx")):
        with pytest.raises(ValueError, match=r"m\.keras exists and is not named \.onnx"):
            export(model, path)
    assert path.read_bytes() == content


@pytest.mark.every_stack
def test_an_exportable_model_saves_copies_and_exports_as_before(keras, tiny, tmp_path, images):
    model = create_model(tiny, classes=2)
    model.save(tmp_path / "m.keras")
    want = np.asarray(model(images(32), training=False))
    for other in (
        keras.saving.load_model(tmp_path / "m.keras"),
        copy.deepcopy(model),
    ):
        np.testing.assert_array_equal(np.asarray(other(images(32), training=False)), want)
    with pytest.raises(ValueError, match=r"not a keras.Model"):
        export_onnx(None, "x.onnx")


@pytest.mark.every_stack
@pytest.mark.tensorflow_only("a SavedModel is TensorFlow's")
def test_a_saved_model_is_exported_as_before(keras, tiny, tmp_path, images):
    import tensorflow as tf

    model = create_model(tiny, classes=2)
    model.export(str(tmp_path / "saved"))
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(
        served.serve(images(32)), model(images(32), training=False), atol=1e-5
    )
