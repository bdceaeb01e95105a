import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import tflite
from keras_effnet.litert import metadata, ops, runner, runtime
from keras_effnet.litert.classifier import open_classifier
from tflite.converter import ConversionImages
from tflite.quantization.mixed_precision import Budget
from tflite.request import ConversionRequest

_QUICK = {"finetune": False, "search_evaluations": 0}


@pytest.fixture(scope="module")
def converted():
    """converted(model, preset, images) -> the Conversion without searches, made once."""
    conversions = {}

    def once(model, preset, images):
        key = (model, preset, len(images))
        if key not in conversions:
            calibrated = tflite.PRESETS[preset].calibrated
            conversions[key] = tflite.convert(
                model,
                preset=preset,
                calibration=images if calibrated else None,
                evaluation=None if calibrated else images,
                **_QUICK,
            )
        return conversions[key]

    return once


# Conversion -----------------------------------------------------------------------------------


def test_keras_model_becomes_int8_in_one_call(model, images):
    lines = []
    conversion = tflite.convert(model, calibration=images, log=lines.append, **_QUICK)
    assert conversion.preset == "int8"
    assert conversion.plan.calibration_images == 16
    assert "the calibration images" in conversion.report.source
    starts = ["Images:", "Loading", "Converting", "Quantization step", "Comparing"]
    stages = [start for line in lines for start in starts if line.startswith(start)]
    assert list(dict.fromkeys(stages)) == starts
    record = json.loads(json.dumps(conversion.as_dict()))
    assert record["calibration"]["images"] == 16
    assert record["quantization_steps"][0]["name"] == "min-max ranges"
    assert record["quantization_steps"][0]["kept"] is True


@pytest.mark.parametrize("preset", tflite.PRESETS)
def test_every_preset_converts(preset, float_content, images, converted):
    conversion = converted(float_content, preset, images)
    row = tflite.PRESETS[preset]
    opened = open_classifier(conversion.tflite_model)
    assert (opened.classes, opened.height, opened.width) == (10, 32, 32)
    source, sink = ops.quantization(conversion.tflite_model)
    assert (source[0].lower(), sink[0].lower()) == (row.input, row.output)
    assert metadata.read(conversion.tflite_model) is not None
    assert ops.misaligned_buffers(conversion.tflite_model) == 0
    assert conversion.report.images == 16
    if preset != "float32":
        assert conversion.report.agreement > 0.6
        assert conversion.comparison.report == conversion.report
    json.dumps(conversion.as_dict())


@pytest.mark.parametrize("preset", ["float16", "int8", "int8_mixed", "weight_only"])
def test_presets_for_cpus_are_fully_accelerated(preset, float_content, images, converted):
    assert runtime.is_fully_accelerated(converted(float_content, preset, images).tflite_model)


def test_strict_int8_has_no_float(float_content, images, converted):
    operators = tflite.read_ops(converted(float_content, "int8_strict", images).tflite_model)
    assert {op.dtype for op in operators} == {"INT8", "UINT8"}
    assert "CONCATENATION" not in ops.count_ops(operators)


@pytest.mark.parametrize("preset", ["int8", "int8_strict"])
def test_logits_and_sigmoids_convert(preset, logits_content, sigmoid_content, images):
    for model, output in ((logits_content, "logits"), (sigmoid_content, "sigmoid")):
        conversion = tflite.convert(model, preset=preset, calibration=images, **_QUICK)
        assert open_classifier(conversion.tflite_model).output_activation == output
        assert conversion.report.kl_divergence < 0.1


def test_image_order_does_not_change_a_byte(float_content, images, converted):
    reversed_order = tflite.convert(float_content, calibration=images[::-1], **_QUICK)
    conversion = converted(float_content, "int8", images)
    assert reversed_order.tflite_model == conversion.tflite_model
    assert reversed_order.calibration["sha256"] == conversion.calibration["sha256"]


def test_float_tflite_is_kept_as_it_is(float_content, images, converted):
    assert converted(float_content, "int8", images).float32_model == float_content


def test_float32_preset_is_evaluated_alone(model, float_content, images):
    conversion = tflite.convert(model, preset="float32", evaluation=images)
    assert conversion.float32_model == float_content
    np.testing.assert_array_equal(
        *(runner.scores(m, images[:2]) for m in (conversion.tflite_model, float_content))
    )
    assert conversion.ranges is conversion.comparison is conversion.report.candidate is None


def test_class_names_are_in_the_file(float_content):
    names = [f"class {i}" for i in range(10)]
    conversion = tflite.convert(float_content, preset="weight_only", class_names=names)
    assert metadata.read(conversion.tflite_model).labels == tuple(names)
    assert conversion.class_names == tuple(names)
    assert conversion.report is None


def test_evaluation_images_are_reported(float_content, images):
    labels = np.arange(8) % 10
    conversion = tflite.convert(
        float_content, calibration=images, evaluation=(images[:8], labels), **_QUICK
    )
    assert conversion.report.images == 8
    assert conversion.report.candidate.top1 is not None
    assert "the calibration images" not in conversion.report.source


def test_budget_makes_it_int8_mixed(trained_v1, photos):
    conversion = tflite.convert(trained_v1, calibration=photos[:24], min_agreement=0.5, **_QUICK)
    assert conversion.preset == "int8_mixed"
    assert conversion.budget == Budget(min_agreement=0.5)
    assert conversion.report.agreement >= 0.5


@pytest.mark.parametrize("preset", ["weight_only", "int16x8"])
def test_int8_weights_are_rounded_with_images(trained_v1, photos, preset):
    conversion = tflite.convert(trained_v1, preset=preset, calibration=photos, **_QUICK)
    nearest, rounded = conversion.quantization_steps
    assert rounded.name == "weight rounding"
    assert rounded.kept
    assert rounded.kl_divergence < 0.5 * nearest.kl_divergence
    scores, wanted = (runner.scores(m, photos[:8]) for m in (conversion.exact_model, trained_v1))
    np.testing.assert_allclose(scores, wanted, atol=1e-4)  # not rounded
    assert conversion.calibration["images"] == len(photos)
    if preset == "weight_only":
        plain = tflite.convert(trained_v1, preset="weight_only", evaluation=photos)
        assert plain.quantization_steps == ()
        assert conversion.report.kl_divergence < plain.report.kl_divergence


def test_exact_model_has_the_scores_of_the_float_model(trained_v1, photos, converted):
    conversion = converted(trained_v1, "int8", photos)
    assert any(row.name == "bias correction" for row in conversion.quantization_steps)
    scores, wanted = (runner.scores(m, photos[:8]) for m in (conversion.exact_model, trained_v1))
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


def test_saved_page_shows_the_quantization_steps(float_content, images, converted, tmp_path):
    _, html, *_ = tflite.save(converted(float_content, "int8", images), tmp_path / "m.tflite")
    text = pathlib.Path(html).read_text(encoding="utf-8")
    assert "min-max ranges" in text
    assert "weight rounding" in text


def test_unknown_option_is_an_error(float_content):
    with pytest.raises(TypeError, match=r"Unknown option 'seconds'"):
        tflite.convert(float_content, preset="float32", seconds=3)
    with pytest.raises(TypeError, match="search_seconds was replaced by search_evaluations"):
        tflite.convert(float_content, preset="float32", search_seconds=3)


# Images ---------------------------------------------------------------------------------------


def _load(model, calibration, evaluation=None, log=lambda line: None, **options):
    request = ConversionRequest.validated(model, has_calibration=True, **options)
    return ConversionImages.loaded(request, calibration, evaluation, log)


def test_labels_follow_the_calibration_images(float_content, images):
    labels = np.arange(16) % 10
    loaded = _load(float_content, (images, labels))
    by_image = {image.tobytes(): label for image, label in zip(images, labels)}
    assert [by_image[image.tobytes()] for image in loaded.calibration.images] == list(
        loaded.calibration.labels
    )
    np.testing.assert_array_equal(loaded.evaluation.images, images)  # in the given order
    assert loaded.manifest["sha256"] == loaded.calibration.sha256
    assert loaded.manifest["preprocessing"] == "stretched"


def test_calibration_images_are_limited(float_content, images):
    options = tflite.ConversionOptions(calibration_images=16)
    loaded = _load(float_content, np.concatenate([images, images // 2]), options=options)
    assert len(loaded.calibration) == 16
    assert "16 of 32 images" in loaded.manifest["source"]


def test_training_images_calibrate_and_validation_images_evaluate(float_content, images, tmp_path):
    for split, chosen in (("train", images), ("val", images[:2])):
        for i, image in enumerate(chosen):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    loaded = _load(float_content, tmp_path, tmp_path)
    assert (len(loaded.calibration), len(loaded.evaluation.images)) == (16, 2)
    np.testing.assert_array_equal(loaded.evaluation.images, images[:2])
    assert loaded.manifest["files"][0] == "a/0.png"
    compared = _load(float_content, tmp_path, preset="float16")
    assert len(compared.evaluation.images) == 16  # still those of --calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.repeat(x[:1], 16, axis=0), "16 calibration images are identical"),
        (lambda x: np.broadcast_to(x[:, :1, :1], x.shape), "of one color"),
        (lambda x: x[:3], "has 3 images and needs 16"),
        (lambda x: x / 255, r"\[0, 1\]"),
        (lambda x: (x, np.arange(16) % 11), "10"),
    ],
)
def test_bad_calibration_images_are_errors(float_content, images, change, message):
    with pytest.raises(ValueError, match=message):
        _load(float_content, change(images))


def test_bad_evaluation_labels_are_errors(float_content, images):
    with pytest.raises(ValueError, match=r"0 to 10|10 classes"):
        _load(float_content, images, (images, np.arange(16) % 11))


def test_drop_without_labels_is_an_error(float_content, images):
    with pytest.raises(ValueError, match=r"max_drop needs labelled calibration images"):
        _load(float_content, images, budget=Budget(max_drop=1))


def test_logits_are_reported_and_softmax_is_appended(logits_content, float_content, images):
    lines = []
    plain = tflite.convert(logits_content, preset="float32", log=lines.append)
    assert any("ends in logits" in line for line in plain.warnings)
    assert any("ends in logits" in line for line in lines)
    appended = tflite.convert(logits_content, preset="int8", calibration=images, softmax=True,
                              **_QUICK)  # fmt: skip
    assert not any("logits" in line for line in appended.warnings)
    want = runner.scores(float_content, images)
    np.testing.assert_allclose(runner.scores(appended.float32_model, images), want, atol=1e-5)
    assert open_classifier(appended.tflite_model).output_activation == "softmax"
    with pytest.raises(ValueError, match="ends in softmax"):
        tflite.convert(float_content, preset="float32", softmax=True)


def test_a_float_model_at_chance_is_reported(float_content, images):
    labels = (runner.scores(float_content, images).argmax(-1) + 1) % 10
    conversion = tflite.convert(float_content, preset="float32", evaluation=(images, labels))
    assert any("as by chance with 10 classes" in line for line in conversion.warnings)


@pytest.mark.parametrize("preset", ["float32", "int8", "int8_strict"])
def test_a_grey_model_converts_and_mediapipes_limit_is_named(tiny, build, images, preset):
    model = build(tiny, input_shape=(32, 32, 1))
    conversion = tflite.convert(model, preset=preset, calibration=images[..., :1], **_QUICK)
    assert open_classifier(conversion.tflite_model).channels == 1
    assert any("MediaPipe's ImageClassifier accepts RGB only" in w for w in conversion.warnings)
    assert conversion.report.images == 16


def _outputs_of(kind):
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 255)(image))
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    unit = keras.layers.Dense(1)(vector)
    features = keras.layers.UnitNormalization()(keras.layers.Dense(4)(vector))
    outputs = {
        "unit": unit,
        "maps": maps,
        "embedding": vector,
        "normalized": keras.layers.Identity()(features),
        "flat": keras.layers.Flatten()(maps),
        "relu": keras.layers.Dense(4, activation="relu")(vector),
        "two": [unit, maps],
        "twice": [vector, vector],
        "number": keras.ops.max(vector),
        "argmax": keras.ops.argmax(maps, -1),
    }
    return keras.Model(image, outputs[kind])


@pytest.mark.parametrize(
    ("kind", "preset"),
    [("unit", "int8"), ("unit", "int8_strict"), ("maps", "int8"), ("embedding", "weight_only"),
     ("normalized", "float16"), ("flat", "float16"), ("relu", "float16"), ("two", "int8"),
     ("two", "float16"), ("two", "int16x8")],
)  # fmt: skip
def test_outputs_without_classes_are_converted(kind, preset, photos, tmp_path):
    conversion = tflite.convert(
        _outputs_of(kind), preset=preset, calibration=photos, search_evaluations=0
    )
    report = conversion.report
    assert (report.agreement, report.kl_divergence, report.drop) == (None, None, None)
    assert len(report.outputs) == (2 if kind == "two" else 1)
    assert all(output.correlation > 0.98 for output in report.outputs)
    assert "mean absolute error" in str(report)
    for step in conversion.quantization_steps:
        assert step.measures == ("relative error", "correlation")
    tflite.save(conversion, tmp_path / "m.tflite")
    page = (tmp_path / "m.tflite.html").read_text()
    assert "Mean absolute error of" in page
    assert "top-1" not in page.split("<h2>")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "int8_mixed"}, "int8_mixed, whose budget"),
        ({"class_names": ["a"]}, "class names: the model is no classifier"),
        ({"softmax": True}, "softmax: the model is no classifier"),
        ({"finetune": True}, "fine-tuning"),
        ({"preset": "int8_strict"}, "supports one output, not 2"),
    ],
)
def test_what_needs_classes_is_an_error(options, message, images):
    with pytest.raises(ValueError, match=message):
        tflite.convert(_outputs_of("two"), calibration=images, **options)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("twice", ValueError, "the same tensor as several of its 2 outputs"),
        ("number", ValueError, "an output without a batch axis"),
        ("argmax", tflite.ConversionError, "TFLite has no BitwiseAnd. Replace the layers"),
    ],
)
def test_outputs_that_cannot_be_converted_are_one_line(images, kind, error, message):
    with pytest.raises(error, match=message) as raised:
        tflite.convert(_outputs_of(kind), calibration=images)
    assert "\n" not in str(raised.value)


def test_class_names_of_an_embedding_are_an_error(images):
    with pytest.raises(ValueError, match="class names: the model is no classifier"):
        tflite.convert(_outputs_of("relu"), preset="float32", class_names=["a", "b", "c", "d"])


@pytest.mark.slow
def test_a_small_resnet_becomes_int8():
    """Its ops that no EfficientNet has: max pooling, and activations after additions."""
    import keras_effnet

    variant = keras_effnet.scale("resnet50", width=0.125, depth=0.25)
    network = keras_effnet.create_model(variant, classes=4, input_shape=(32, 32, 3))
    photos = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    conversion = tflite.convert(network, calibration=photos, **_QUICK)
    types = {op.name: op.types for op in tflite.read_ops(conversion.tflite_model)}
    assert {types[name] for name in ("CONV_2D", "MAX_POOL_2D", "ADD")} == {"int8"}
    assert runtime.is_fully_accelerated(conversion.tflite_model)
