import keras
import pytest

import tflite
from keras_effnet.litert import metadata
from tflite.keras_models.files import load_keras
from tflite.quantization.mixed_precision import Budget
from tflite.quantization.options import ConversionOptions
from tflite.request import MIN_AGREEMENT, ConversionRequest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "int88"}, "Unknown preset 'int88'. Did you mean 'int8'"),
        ({"has_calibration": False}, "preset int8 needs calibration images"),
        ({"class_names": ["a", "b", "c"]}, "3 class names for a model with 10 outputs"),
        ({"image_size": 64}, "image_size 64 does not fit"),
        ({"preset": "int8", "budget": Budget(max_drop=1)}, "preset int8 takes no budget"),
    ],
)
def test_bad_arguments_are_errors(model, float_content, options, message):
    for each in (model, float_content):
        with pytest.raises(ValueError, match=message):
            ConversionRequest.validated(each, **{"has_calibration": True, **options})


def test_a_softmax_is_not_appended_to_probabilities(model, float_content):
    options = {"has_calibration": True, "options": ConversionOptions(softmax=True)}
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten()]
    several = [*layers, keras.layers.Dense(3, "sigmoid"), keras.layers.Dropout(0.1)]
    for each in (model, float_content, keras.Sequential(several)):
        with pytest.raises(ValueError, match=r"softmax: the network ends in (softmax|sigmoid)"):
            ConversionRequest.validated(each, **options)
    logits = keras.Sequential([*layers, keras.layers.Dense(3)])
    assert ConversionRequest.validated(logits, **options).is_classifier


def test_outputs_are_no_classes_if_the_loss_in_the_file_is_of_regression(tmp_path):
    @keras.saving.register_keras_serializable("test")
    def own_loss(labels, outputs):
        return keras.losses.mean_squared_error(labels, outputs)

    path = str(tmp_path / "m.keras")
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten()]
    for activation, loss, class_names, expected in (
        (None, "mse", None, False),
        ("sigmoid", keras.losses.Huber(), None, False),
        ("softmax", "mse", None, True),  # probabilities, trained by their Brier score
        (None, "mse", ["a", "b", "c"], True),  # the user says so
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), None, True),
        (None, own_loss, None, True),  # unknown
    ):
        model = keras.Sequential([*layers, keras.layers.Dense(3, activation)])
        model.compile(loss=loss)
        model.save(path)
        if loss is own_loss:  # which is not needed to load the file
            keras.saving.get_custom_objects().clear()
        options = {"has_calibration": True, "class_names": class_names}
        for each in (model, load_keras(path)):
            request = ConversionRequest.validated(each, **options)
            assert request.is_classifier == expected, (activation, loss)


def test_files_that_are_no_float_model_are_errors(float_content, int8_content):
    normalized = metadata.attach(float_content, mean=127.5, std=127.5)
    ops = tflite.read_ops(float_content)
    float16, weight_only = (
        tflite.quantize(float_content, None, tflite.make_plan(ops, preset))
        for preset in ("float16", "weight_only")
    )
    for model, message in (
        (float_content[: len(float_content) // 2], "truncated or damaged"),
        (b"no model at all", "not a .tflite file"),
        (int8_content, "takes uint8 and has ops of .*give the float32 .tflite"),
        (float16, "takes float32 and has ops of float16, float32: give the float32 .tflite"),
        (weight_only, "takes float32 and has ops of float32, int8: give the float32 .tflite"),
        (normalized, "pixels normalized by mean"),
    ):
        with pytest.raises(ValueError, match=message):
            ConversionRequest.validated(model, has_calibration=True)


@pytest.mark.parametrize(
    ("options", "preset", "budget"),
    [
        ({}, "int8", None),
        ({"budget": Budget()}, "int8", None),
        ({"budget": Budget(max_drop=1)}, "int8_mixed", Budget(max_drop=1)),
        ({"preset": "int8_mixed"}, "int8_mixed", Budget(min_agreement=MIN_AGREEMENT)),
        ({"preset": "float32", "has_calibration": False}, "float32", None),
        ({"preset": "weight_only"}, "weight_only", None),
    ],
)
def test_preset_and_budget_have_defaults(float_content, options, preset, budget):
    request = ConversionRequest.validated(float_content, **{"has_calibration": True, **options})
    assert (request.preset.name, request.budget) == (preset, budget)
    assert request.tflite_model == float_content
    assert (request.height, request.width, request.classes) == (32, 32, 10)
    assert request.image_input is None


def test_keras_model_states_how_photos_become_its_images(model):
    request = ConversionRequest.validated(model, has_calibration=True)
    assert request.keras_model is model
    assert "32 x 32 pixels" in str(request.image_input)
    assert request.tflite_model is None


def test_the_stated_image_size_is_the_converted_one(tiny, build):
    open_size = build(tiny, input_shape=(None, None, 3))
    for size, text in ((48, "48 x 48 pixels"), ((40, 48), "40 x 48 pixels")):
        request = ConversionRequest.validated(open_size, has_calibration=True, image_size=size)
        assert text in str(request.image_input)
