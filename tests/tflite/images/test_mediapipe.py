"""Converted models in MediaPipe's ImageClassifier, which Android apps use."""

import dataclasses
import doctest

import numpy as np
import pytest

import tflite
from keras_effnet.litert import metadata, runner, runtime, writer
from tests.conftest import TINY
from tflite.flatbuffer import rewrite
from tflite.images import mediapipe

_MISSING = (
    "MediaPipe does not start here ({}). Install once: apt-get install libegl1 libgles2 libgl1 && "
    'pip install -e ".[test]"'
)
LABELS = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def classify():
    """classify(content, image) -> MediaPipe's categories of all classes, the best first."""
    try:
        import mediapipe as mp
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        pytest.skip(_MISSING.format(error))

    def run(content, image):
        options = vision.ImageClassifierOptions(
            base_options=BaseOptions(model_asset_buffer=content), max_results=-1
        )
        try:
            task = vision.ImageClassifier.create_from_options(options)
        except OSError as error:
            if ".so" not in str(error):
                raise
            pytest.skip(_MISSING.format(error))
        with task:
            result = task.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
        return result.classifications[0].categories

    return run


def _scores(categories):
    scores = np.full(len(categories), np.nan, np.float32)
    for category in categories:
        scores[category.index] = category.score
    return scores


def _expected(content, image):
    """The interpreter's scores, dequantized."""
    return runner.scores(content, image[None])[0]


def _converted(model, preset, images):
    calibrated = tflite.PRESETS[preset].calibrated
    return tflite.convert(
        model,
        preset=preset,
        calibration=images if calibrated else None,
        class_names=LABELS,
        finetune=False,
        search_evaluations=0,
    ).tflite_model


def _photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _assert_same(classify, content, image, height, width, step=0.0):
    pixels = mediapipe.stretch(image, height, width)
    categories = classify(content, image)
    expected = _expected(content, pixels)
    np.testing.assert_allclose(_scores(categories), expected, rtol=0, atol=1.01 * step)
    names = metadata.read(content).labels
    assert [c.category_name for c in categories] == [names[c.index] for c in categories]


@pytest.mark.parametrize(
    "preset",
    [pytest.param(p, marks=[] if p == "int8" else pytest.mark.slow) for p in tflite.PRESETS],
)
def test_scores_of_every_preset_equal_the_interpreters(preset, classify, model, images):
    """Exactly; for int16x8, which has no fast kernels, to one quantization step, since MediaPipe
    contains other slow kernels.
    """
    content = _converted(model, preset, images)
    step = 1 / 32768 if preset == "int16x8" else 0.0
    for height, width in ((32, 32), (57, 91), (64, 96), (20, 25), (300, 401)):
        _assert_same(classify, content, _photo(height, width), 32, 32, step)


def test_mediapipe_applies_the_normalization(classify, float_content):
    """MediaPipe applies mean and std, not the model: the scores are those of normalized pixels."""
    content = metadata.attach(float_content, labels=LABELS, mean=10, std=2)
    image = _photo(32, 32)
    want = runner.scores(content, (image[None].astype(np.float32) - 10) / 2)[0]
    np.testing.assert_allclose(_scores(classify(content, image)), want, rtol=0, atol=1e-6)


def test_mediapipe_rejects_a_float_model_without_metadata(classify, float_content):
    with pytest.raises(Exception, match="NormalizationOptions"):
        classify(float_content, _photo(32, 32))


def test_an_int8_input_is_rejected_by_mediapipe_and_attach(classify, float_content):
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(rewrite.uint8_input(metadata.attach(float_content)))
    image = tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]]
    image.type = tools.TensorType.INT8
    image.quantization.zeroPoint = np.array([-128], np.int64)
    content = writer.write(tree)
    with pytest.raises(Exception, match="INT8"):
        classify(content, _photo(32, 32))
    with pytest.raises(
        ValueError, match="input of INT8; MediaPipe's ImageClassifier accepts UINT8"
    ):
        metadata.attach(content)


def test_stretch_samples_at_pixel_corners():
    """Every third pixel exactly; a resize at pixel centers interpolates."""
    image = _photo(96, 64)
    np.testing.assert_array_equal(mediapipe.stretch(image, 32, 32), image[::3, ::2])


def test_examples_in_docstrings_run():
    result = doctest.testmod(mediapipe)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("efficientnet-b0", marks=pytest.mark.exhaustive),
        pytest.param("efficientnetv2-b0", marks=pytest.mark.exhaustive),
        pytest.param(dataclasses.replace(TINY, head_filters=512), id="tiny"),
    ],
)
def test_large_models_with_1000_classes(variant, classify, build):
    """From 256 KiB on, the quantizer writes their buffers behind the flatbuffer."""
    network = build(variant, classes=1000, input_shape=(64, 64, 3))
    images = np.random.default_rng(1).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    labels = [f"name {i}" for i in range(1000)]
    conversion = tflite.convert(network, preset="int8", calibration=images, search_evaluations=0)
    assert len(conversion.tflite_model) > 256 * 1024
    for content in (conversion.float32_model, conversion.tflite_model):
        content = metadata.attach(content, labels=labels)
        _assert_same(classify, content, _photo(64, 64), 64, 64)
        _assert_same(classify, content, _photo(300, 401), 64, 64)
