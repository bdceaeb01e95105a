import keras
import pytest

from keras_effnet.compiled_loss import is_regression, read_loss
from tflite.export import load_keras
from tflite.request import ConversionRequest


def network(activation=None, units=3):
    images = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    return keras.Model(images, keras.layers.Dense(units, activation, name="head")(pooled))


def is_classifier(model, **options):
    options = {"has_calibration": True, "preset": "int8", **options}
    return ConversionRequest.validated(model, **options).is_classifier


@pytest.mark.every_stack
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_the_loss_in_a_file_tells_regression_from_logits(ending, tmp_path):
    path = str(tmp_path / f"m.{ending}")
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for loss, expected in (
        ("mse", False),
        ("mean_absolute_error", False),
        (keras.losses.Huber(), False),
        (keras.losses.MeanSquaredError(), False),
        (keras.losses.mean_squared_error, False),
        ({"head": "log_cosh"}, False),
        (["mae"], False),
        ("sparse_categorical_crossentropy", True),
        (logits, True),
        (None, True),
    ):
        model = network()
        if loss is not None:
            model.compile(loss=loss)
        model.save(path)
        assert is_classifier(load_keras(path)) == expected, loss
        assert is_classifier(model) == expected, loss


def test_what_says_that_outputs_are_classes_counts_more_than_the_loss():
    model = network("softmax")
    model.compile(loss="mse")
    assert is_classifier(model)  # probabilities, by their Brier score
    model = network()
    model.compile(loss="mse")
    assert is_regression(model)
    assert is_classifier(model, class_names=["a", "b", "c"])
    assert not is_classifier(model)


def test_a_custom_loss_is_not_needed_to_load_a_file(tmp_path):
    @keras.saving.register_keras_serializable("test")
    def own_loss(labels, outputs):
        return keras.losses.mean_squared_error(labels, outputs)

    path = str(tmp_path / "m.keras")
    model = network()
    model.compile(loss=own_loss)
    model.save(path)
    keras.saving.get_custom_objects().clear()
    loaded = load_keras(path)
    assert not is_regression(loaded)
    assert is_classifier(loaded)


def test_files_without_a_loss_have_none(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    (tmp_path / "m.h5").write_bytes(b"no archive")
    for name in ("m.keras", "m.h5", "none.keras", "none.h5", ""):
        assert read_loss(str(tmp_path / name)) is None
