import keras
import pytest

from keras_effnet.compiled_loss import is_regression, read_loss


@pytest.mark.every_stack
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_the_loss_in_a_file_tells_regression_from_classification(ending, tmp_path):
    path = str(tmp_path / f"m.{ending}")
    for loss, expected in (
        ("mse", True),
        ("mean_absolute_error", True),
        (keras.losses.Huber(), True),
        (keras.losses.MeanSquaredError(), True),
        (keras.losses.mean_squared_error, True),
        ({"head": "log_cosh"}, True),
        (["mae"], True),
        ("sparse_categorical_crossentropy", False),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        (None, False),
    ):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(3, name="head")(inputs))
        if loss is not None:
            model.compile(loss=loss)
        assert is_regression(model) == expected, loss
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
        assert not is_regression(loaded)
        loaded.loss = read_loss(path)
        assert is_regression(loaded) == expected, loss


def test_the_losses_of_several_outputs_are_not_one(tmp_path):
    path = str(tmp_path / "m.keras")
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(3, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, heads)
    model.compile(loss={"a": "mse", "b": "mse"})
    model.save(path)
    assert read_loss(path) is None
    assert not is_regression(model)


def test_files_without_a_loss_have_none(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    (tmp_path / "m.h5").write_bytes(b"no archive")
    for name in ("m.keras", "m.h5", "none.keras", "none.h5", ""):
        assert read_loss(str(tmp_path / name)) is None
