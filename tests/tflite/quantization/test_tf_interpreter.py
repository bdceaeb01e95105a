import numpy as np
import pytest
import tensorflow as tf

import tflite
from keras_effnet.litert import runner, runtime
from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization import equalization
from tflite.quantization.calibration import collect_histograms
from tflite.quantization.normalization_folding import fold_normalization
from tflite.quantization.tf_interpreter import TFInterpreter, compute


def _planned(content, photos, preset="int8"):
    """(ranges by min-max, plan)."""
    found = tflite.calibrate(content, photos)
    return found, tflite.make_plan(tflite.read_ops(content), preset, calibration_images=len(photos))


def _computed(content, ranges, plan, images, *, quantized):
    """Scores of the network in TensorFlow."""
    graph = Graph(content)
    interpreter = TFInterpreter(graph, ranges, plan)
    values = {graph.input: tf.constant(images, tf.float32)}
    return interpreter.run(values, graph.operations, quantized=quantized)[graph.output].numpy()


def _scores(content, images):
    return runner.scores(content, images)


def _variant(content, photos, way):
    if way == "folded":
        return fold_normalization(content)
    if way == "subtract":
        return fold_normalization(content, border="subtract")
    if way == "through swishes":
        graph = Graph(content)
        names = tuple(graph.name(swish.z) for swish in swishes(graph))
        histograms = collect_histograms(content, photos[:16])
        return equalization.equalize(content, histograms, strength=1.0, through_swish=names)
    return content


_WAYS = ["plain", "folded", "subtract", "through swishes"]


@pytest.mark.parametrize("way", _WAYS)
def test_float_scores_equal_litert(trained, photos, way):
    content = _variant(trained, photos, way)
    found, plan = _planned(content, photos[:16])
    got = _computed(content, found, plan, photos[:16], quantized=False)
    np.testing.assert_allclose(got, _scores(content, photos[:16]), atol=1e-4)


def test_float_scores_of_a_relu6_network_equal_litert(trained_lite, photos):
    found, plan = _planned(trained_lite, photos[:16])
    got = _computed(trained_lite, found, plan, photos[:16], quantized=False)
    np.testing.assert_allclose(got, _scores(trained_lite, photos[:16]), atol=1e-4)


def _off(content, plan, found, photos):
    """{(op, tensor): mean difference in quantization steps} of every int8 operation.

    Each is computed on the inputs of the int8 kernel.
    """
    graph = Graph(content)
    interpreter = TFInterpreter(graph, found, plan)
    made = runtime.interpreter(tflite.quantize(content, found, plan), keep_tensors=True)
    feed, details = made.get_input_details()[0], made.get_tensor_details()
    details = {d["name"]: d for d in details if d["dtype"] is np.int8}
    rows = {}
    for photo in photos:
        made.set_tensor(feed["index"], photo[None].astype(feed["dtype"]))
        made.invoke()
        env = {graph.input: tf.constant(photo[None], tf.float32)}
        for op in graph.operations:
            d = details.get(graph.name(op.output))
            if d is None or op.output not in interpreter.quantized:
                env = interpreter.run(env, [op], quantized=True)
                continue
            scale, zero = d["quantization"]
            got = interpreter.run(env, [op], quantized=True)[op.output].numpy()
            want = (made.get_tensor(d["index"]).astype(np.float32) - zero) * np.float32(scale)
            rows.setdefault((op.name, d["name"]), []).append(np.abs(got - want).mean() / scale)
            env[op.output] = tf.constant(want)
    return {key: np.mean(values) for key, values in rows.items()}


@pytest.mark.parametrize(
    ("way", "preset"),
    [
        ("plain", "int8"),
        ("folded", "int8"),
        ("subtract", "int8_strict"),
        ("through swishes", "int8"),
    ],
)
def test_fake_quantization_rounds_like_the_int8_kernels(trained, photos, way, preset):
    """Op by op, on the inputs of LiteRT's kernel: less than one quantization step apart."""
    content = _variant(trained, photos, way)
    found, plan = _planned(content, photos[:16], preset)
    off = _off(content, plan, found, photos[:4])
    assert len(off) > 35
    assert {key: value for key, value in off.items() if value > 0.3} == {}
    assert np.mean(list(off.values())) < 0.05


def test_fake_quantized_scores_are_close_to_the_int8_file(trained, photos):
    found, plan = _planned(trained, photos)
    quantized = _scores(tflite.quantize(trained, found, plan), photos)
    computed = _computed(trained, found, plan, photos, quantized=True)
    apart = np.abs(computed - quantized).mean()
    assert apart < 0.5 * np.abs(quantized - _scores(trained, photos)).mean()
    assert (computed.argmax(-1) == quantized.argmax(-1)).mean() > 0.85


@pytest.mark.parametrize("change", ["operation", "activation"])
def test_unsupported_operations_are_errors(trained_lite, change):
    graph = Graph(trained_lite)
    op = next(op for op in graph.operations if op.fused == "RELU6")
    if change == "operation":
        op.name, message = "EXP", r"does not support the operation EXP: turn it off"
    else:
        op.raw.builtinOptions.fusedActivationFunction = 4  # TANH
        message = r"Unknown activation 'TANH'"
    kernel, bias = (graph.constant(i) for i in op.inputs[1:])
    image = np.ones((1, *graph.shape(op.inputs[0])[1:]), np.float32)
    with pytest.raises(ValueError, match=message):
        compute(op, [image, kernel, bias], graph.shape(op.output))
