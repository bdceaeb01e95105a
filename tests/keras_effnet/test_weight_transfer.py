import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.finetuning import with_new_head
from keras_effnet.image_size import change_image_size
from keras_effnet.weight_transfer import _all_layers, copy_weights, set_weights

pytestmark = pytest.mark.every_stack


@pytest.fixture
def wrapped(keras, tiny, tame, images):
    """An EfficientNet behind an adapted Normalization, with other layers that keep state."""

    class Shift(keras.layers.Layer):
        """Computes with a value that it derives when its weight is loaded."""

        def build(self, shape):
            self.inner = keras.layers.Dense(4)
            self.inner.build(shape)
            self.shift = self.add_weight(shape=(), initializer="zeros", name="shift")
            self.negative = 0.0
            super().build(shape)

        def load_own_variables(self, store):
            super().load_own_variables(store)
            self.negative = -float(np.asarray(self.shift))

        def call(self, x):
            return self.inner(x) + self.negative

    def build(nested):
        norm = keras.layers.Normalization(name="adapted")
        norm.adapt(images(32))
        backbone = create_model(
            tiny, include_top=False, pooling="avg", include_preprocessing=False, name="backbone"
        )
        tame(backbone)
        front = [norm, keras.layers.RandomFlip(seed=1)]
        if nested:
            front = [keras.Sequential([keras.Input((32, 32, 3)), *front], name="front")]
        shift = Shift()
        tail = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.2, seed=2), shift]
        model = keras.Sequential([keras.Input((32, 32, 3)), *front, backbone, *tail])
        model(images(32), training=True)
        shift.load_own_variables({"0": np.float32(0.5)})
        return model

    return build


@pytest.mark.parametrize("nested", [False, True])
def test_copies_of_every_kind_give_the_models_outputs(keras, wrapped, images, nested):
    model = wrapped(nested)
    want = _outputs(model, images(32))
    assert np.abs(want).max() > 0.1
    np.testing.assert_array_equal(_outputs(change_image_size(model, 32), images(32)), want)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert np.abs(_outputs(clone, images(32)) - want).max() > 0.01  # what Keras does
    set_weights(clone, model.get_weights())
    np.testing.assert_array_equal(_outputs(clone, images(32)), want)
    model.trainable = False  # does not change the order
    copy_weights(model, clone)
    np.testing.assert_array_equal(_outputs(clone, images(32)), want)


@pytest.mark.tensorflow_only("tpu_train and tflite run on TensorFlow")
def test_training_and_ema_clones_and_exports_give_the_models_outputs(keras, wrapped, images):
    from keras_effnet.float32_copy import in_float32
    from tpu_train.training.distributed_layers import training_clone

    model = wrapped(nested=False)
    want = _outputs(model, images(32))
    ema = training_clone(model)
    np.testing.assert_allclose(_outputs(ema, images(32)), want, atol=1e-5)
    exported = keras.models.clone_model(model)
    set_weights(exported, ema.get_weights())
    np.testing.assert_allclose(_outputs(exported, images(32)), want, atol=1e-5)
    pool = keras.layers.GlobalAveragePooling2D()
    half = keras.layers.Dense(2, dtype="mixed_bfloat16")
    mixed = keras.Sequential([keras.Input((32, 32, 3)), model.layers[0], pool, half])
    want = _outputs(mixed, 2 * images(32)).astype("float32")
    have = _outputs(in_float32(mixed), 2 * images(32))
    np.testing.assert_allclose(have, want, atol=0.05)


def test_a_new_head_keeps_the_adapted_normalization(keras, tiny, tame, images):
    x = inputs = keras.Input((32, 32, 3))
    norm = keras.layers.Normalization()
    norm.adapt(images(32))
    model = create_model(tiny, include_preprocessing=False, input_tensor=norm(x))
    assert model.inputs[0] is inputs
    tame(model)
    norm.adapt(images(32))  # `tame` overwrote it
    new = with_new_head(model, 3)
    new.layers[-1].set_weights([w + 0.1 for w in new.layers[-1].get_weights()])
    for copy in (change_image_size(new, 32), change_image_size(model, 32)):
        original = new if copy.output_shape == new.output_shape else model
        np.testing.assert_array_equal(_outputs(copy, images(32)), _outputs(original, images(32)))


def test_weights_of_other_layers_are_an_error_and_change_nothing(keras):
    def model(units, layers=1):
        return keras.Sequential([keras.Input((2,)), *[keras.layers.Dense(units)] * layers])

    a, b = model(2), model(3)
    before = b.get_weights()
    with pytest.raises(ValueError, match="do not fit"):
        copy_weights(a, b)
    with pytest.raises(ValueError, match=r"has 1 layers with weights, but .* has 2"):
        copy_weights(a, keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (2, 2))]))
    for x, y in zip(before, b.get_weights()):
        np.testing.assert_array_equal(x, y)


def _outputs(model, images, training=False):
    return np.asarray(model(images, training=training))


@pytest.mark.tensorflow_only("lookup layers compute with TensorFlow")
@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_copies_keep_the_vocabulary_that_a_layer_was_adapted_to(keras, kind):
    import tensorflow as tf

    words = tf.constant([[5], [7]] if kind == "IntegerLookup" else [["cat"], ["dog"]])
    model = keras.Sequential(
        [keras.Input((1,), dtype=words.dtype.name), getattr(keras.layers, kind)()]
    )
    clone = keras.models.clone_model(model)
    copy_weights(model, clone)  # without a vocabulary there is nothing to copy
    model.layers[0].adapt(words)
    clone = keras.models.clone_model(model)
    copy_weights(model, clone)
    np.testing.assert_array_equal(clone(words), model(words))
    assert np.ptp(np.asarray(clone(words))) > 0
    other = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    with pytest.raises(ValueError, match=r"has 1 layers with a vocabulary, but .* has 0"):
        copy_weights(model, other)


@pytest.fixture
def counting(keras):
    """A layer with a counter, sublayers in a list, and a random number generator."""

    @keras.saving.register_keras_serializable("tests")
    class Counting(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.parts = [keras.layers.Dense(4), keras.layers.BatchNormalization()]

        def build(self, shape):
            self.count = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="count"
            )
            self.parts[0].build(shape)
            self.parts[1].build((*shape[:-1], 4))
            super().build(shape)

        def call(self, x, training=None):
            if training:
                self.count.assign_add(1.0)
            for part in self.parts:
                x = part(x)
            return x + self.count

    yield Counting()
    keras.saving.get_custom_objects().pop("tests>Counting", None)


def _chain(keras, *layers, shape=(32, 32, 3)):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def _build(keras, kind, front, backbone, counting):
    layers = keras.layers
    tail = [layers.BatchNormalization(), layers.Dropout(0.2, seed=2), counting]
    if kind == "nested twice":
        inner = keras.Sequential([keras.Input((32, 32, 3)), *front], name="front")
        middle = keras.Sequential([keras.Input((32, 32, 3)), inner, backbone], name="middle")
        return _chain(keras, middle, *tail)
    dense, norm = layers.Dense(8, name="shared"), layers.BatchNormalization()
    repeated = [dense, norm, dense, norm]
    if kind == "shared by models":
        repeated = [dense, _chain(keras, dense, norm, shape=(8,))]
    return _chain(keras, *front, backbone, layers.Dense(8), *repeated, *tail)


def _state(model):
    """All variables of all layers, in order, also those of random number generators."""
    arrays = []
    for layer in _all_layers(model):
        own = {}
        layer.save_own_variables(own)
        generators = getattr(layer, "_seed_generators", ())
        arrays += [np.asarray(v) for v in own.values()]
        arrays += [np.asarray(generator.state) for generator in generators]
    return arrays


@pytest.mark.every_stack
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "nested twice", "shared by models"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_no_way_of_moving_weights_loses_state(keras, tiny, tame, images, tmp_path, counting, kind):
    norm = keras.layers.Normalization(name="adapted")
    norm.adapt(images(32))
    backbone = create_model(
        tiny, include_top=False, pooling="avg", include_preprocessing=False, name="backbone"
    )
    tame(backbone)
    front = [norm, keras.layers.RandomFlip(seed=1)]
    model = _build(keras, kind, front, backbone, counting)
    for _ in range(2):
        model(images(32), training=True)
    want = _outputs(model, images(32))

    clone = keras.models.clone_model(model)
    copy_weights(model, clone)
    for copy in (clone, change_image_size(model, 32)):
        np.testing.assert_array_equal(_outputs(copy, images(32)), want)
        for have, state in zip(_state(copy), _state(model), strict=True):
            np.testing.assert_array_equal(have, state)
    if not keras.__version__.startswith("2."):  # the copy draws what the model draws next
        again = _outputs(clone, images(32), training=True)
        np.testing.assert_allclose(again, _outputs(model, images(32), training=True), rtol=1e-5)
    if kind == "shared by models":
        return  # Keras's own clones and files do not share the layer
    want = _outputs(model, images(32))
    ema = keras.models.clone_model(model)
    set_weights(ema, [np.zeros_like(w) for w in model.get_weights()])
    set_weights(ema, model.get_weights())
    others = {"ema": ema}
    suffixes = [".keras"] if kind == "nested twice" else [".keras", ".h5"]
    for suffix in suffixes:  # nested in a .h5, Keras loses what Normalization derives
        model.save(tmp_path / f"m{suffix}")
        others[suffix] = keras.saving.load_model(tmp_path / f"m{suffix}", compile=False)
    model.save_weights(tmp_path / "m.weights.h5")
    others[".weights.h5"] = keras.models.clone_model(model)
    others[".weights.h5"].load_weights(tmp_path / "m.weights.h5")
    for name, other in others.items():
        np.testing.assert_allclose(_outputs(other, images(32)), want, rtol=1e-5, err_msg=name)
    if kind == "shared" and keras.backend.backend() == "tensorflow" and hasattr(keras, "export"):
        import tensorflow as tf

        archive = keras.export.ExportArchive()
        archive.track(model)
        signature = [tf.TensorSpec((None, 32, 32, 3))]
        # model.export would leave RandomFlip on
        archive.add_endpoint("serve", lambda x: model(x, training=False), signature)
        archive.write_out(str(tmp_path / "saved"))
        loaded = tf.saved_model.load(str(tmp_path / "saved"))
        np.testing.assert_allclose(loaded.serve(images(32)), want, rtol=1e-4, atol=1e-5)
