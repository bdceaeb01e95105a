import numpy as np
import pytest
import tensorflow as tf
from ai_edge_quantizer import quantizer, recipe

import tflite
from keras_effnet.litert import classifier, metadata, ops, runner, runtime


@pytest.fixture(scope="module")
def int8_ends():
    """Makes a file with int8 in and out of a float one."""

    def make(content, images):
        ranges = tflite.calibrate(content, images)
        arrays = {
            name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
            for name, bounds in ranges.items()
        }
        with runtime.quiet():
            quantized = quantizer.Quantizer(content, recipe.static_wi8_ai8()).quantize(arrays)
        return bytes(quantized.quantized_model)

    return make


def _several_at_a_time(count):
    """A .tflite of a small network with a batch of `count` images."""
    rng = np.random.default_rng(0)
    kernel, head = (rng.normal(0, 0.1, s).astype(np.float32) for s in ((3, 3, 3, 4), (4, 3)))

    @tf.function(input_signature=[tf.TensorSpec((count, 8, 8, 3), tf.float32)])
    def network(images):
        features = tf.reduce_mean(tf.nn.conv2d(images, kernel, 1, "SAME"), (1, 2))
        return tf.matmul(features, head)

    with runtime.native_log_hidden():
        return tf.lite.TFLiteConverter.from_concrete_functions(
            [network.get_concrete_function()], network
        ).convert()


def test_scores_equal_those_of_the_interpreter(float_content, int8_content, images):
    for content in (float_content, int8_content):
        want = runner.scores(content, images)
        got = classifier.scores(classifier.open_classifier(content), images)
        np.testing.assert_array_equal(got, want)


def test_scores_do_not_depend_on_the_number_of_processors(int8_content, images, monkeypatch):
    model = classifier.open_classifier(int8_content)
    many = np.concatenate([images] * 4 + [images[:5]])
    scores = []
    for count in (1, 4):
        monkeypatch.setattr(classifier, "_processors", lambda count=count: count)
        scores.append(classifier.scores(model, many))
    np.testing.assert_array_equal(*scores)
    assert len(scores[0]) == 69


def test_int8_input_and_output_approximate_the_float_scores(float_content, images, int8_ends):
    content = int8_ends(float_content, images)
    assert [end[0] for end in ops.quantization(content)] == ["INT8", "INT8"]
    model = classifier.open_classifier(content)
    assert model.output_scale == pytest.approx(1 / 256)
    want = classifier.scores(classifier.open_classifier(float_content), images)
    got = classifier.scores(model, images)
    assert np.abs(got - want).max() < 0.05
    np.testing.assert_allclose(got.sum(-1), 1, atol=0.02)


@pytest.mark.parametrize(
    ("activation", "want"), [("softmax", "softmax"), ("sigmoid", "sigmoid"), (None, "logits")]
)
def test_the_last_op_determines_the_output_activation(tiny, build, activation, want):
    content = tflite.export_float32(build(tiny, classifier_activation=activation))
    assert classifier.open_classifier(content).output_activation == want


def test_a_trailing_dequantize_is_skipped(int8_content):
    assert classifier.open_classifier(int8_content).output_activation == "softmax"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error(float_content, int8_content, share):
    for content in (float_content, int8_content):
        part = content[: int(share * len(content))]
        with pytest.raises(ValueError, match=r"my\.tflite is (truncated|not a \.tflite)"):
            classifier.open_classifier(part, "my.tflite")


def test_other_bytes_are_an_error():
    with pytest.raises(ValueError, match=r"not a \.tflite"):
        classifier.open_classifier(b"PK\x03\x04" + bytes(100))


def test_a_larger_batch_is_resized_to_one(images):
    content = _several_at_a_time(4)
    model = classifier.open_classifier(content)
    assert (model.height, model.width, model.classes, model.resized) == (8, 8, 3, True)
    few = images[:4, :8, :8]
    together = runtime.interpreter(content)
    together.set_tensor(together.get_input_details()[0]["index"], few.astype(np.float32))
    together.invoke()
    want = together.get_tensor(together.get_output_details()[0]["index"])
    np.testing.assert_allclose(classifier.scores(model, few), want, rtol=1e-5)


def test_a_float_input_is_normalized_as_the_metadata_says(float_content, images):
    content = metadata.attach(float_content, mean=[10, 20, 30], std=2)
    model = classifier.open_classifier(content)
    pixels = (images.astype(np.float32) - np.array([10, 20, 30])) / 2
    np.testing.assert_array_equal(classifier.scores(model, images), runner.scores(content, pixels))
