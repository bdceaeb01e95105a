import functools

import numpy as np

import tflite
from keras_effnet.litert import ops, runner
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import bias_correction


def _quantizer(content, photos):
    """Function from a float .tflite to its int8 version, with ranges of `content`."""
    found = tflite.calibrate(content, photos)
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=len(photos))
    return lambda changed: tflite.quantize(changed, found, plan)


def _means(content, photos, names=None):
    if names is None:
        graph = Graph(content)
        names = [graph.name(op.output) for op in graph.operations]
    return bias_correction.channel_means(content, photos, names)


def _bias_of(graph, name):
    return next(op.inputs[2] for op in graph.operations if graph.name(op.output) == name)


@functools.cache
def _biased(content, shift):
    """(the model with a constant added to one bias, the output of that layer)."""
    graph = Graph(content)
    rows = [op for op in graph.operations if op.name in LINEAR and len(op.inputs) > 2]
    op = rows[1]
    span = np.ptp(graph.constant(op.inputs[2])) + 1
    graph.set_constant(op.inputs[2], graph.constant(op.inputs[2]) + shift * span)
    return graph.content(), graph.name(op.output)


def test_channel_means_are_those_of_the_float_tensors(trained_v1, photos):
    means = _means(trained_v1, photos[:4])
    graph = Graph(trained_v1)
    assert means.keys() == {graph.name(op.output) for op in graph.operations}
    for index, values in enumerate(runner.run(trained_v1, photos[:4], list(means))):
        for name in means:
            value = values[name]
            wanted = value.reshape(-1, value.shape[-1]).mean(0)
            np.testing.assert_allclose(means[name][index], wanted, rtol=1e-4, atol=1e-5)


def test_channel_means_of_int8_tensors_are_dequantized(trained, photos):
    quantized = _quantizer(trained, photos[:16])(trained)
    stem = Graph(trained)
    stem = stem.name(next(op.output for op in stem.operations if op.name == "CONV_2D"))
    got, want = (_means(content, photos[:4], [stem])[stem] for content in (quantized, trained))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_known_bias_is_removed(trained, photos):
    """The quantizer shifts the output of one operation by a constant."""
    inner = _quantizer(trained, photos[:16])
    shifted, name = _biased(trained, 0.05)
    shift = Graph(shifted).constant(_bias_of(Graph(shifted), name)) - Graph(trained).constant(
        _bias_of(Graph(trained), name)
    )

    def quantized(content):
        graph = Graph(content)
        bias = _bias_of(graph, name)
        graph.set_constant(bias, graph.constant(bias) + shift)
        return inner(graph.content())

    corrected = bias_correction.correct_biases(trained, photos[:16], quantized)
    want, before, after = (
        _means(content, photos[:16], [name])[name].mean(0)
        for content in (trained, quantized(trained), quantized(corrected))
    )
    assert np.abs(before - want).mean() > 0.5 * np.abs(shift).mean()
    assert np.abs(after - want).mean() < 0.2 * np.abs(before - want).mean()


def test_channel_means_improve_on_other_images(trained, photos):
    """Ranges that clip shift the means."""
    learn, held = photos[:24], photos[24:]
    found = tflite.calibrate(trained, learn)
    found = {
        name: {end: value * (0.6 if name in _clipped(trained) else 1) for end, value in row.items()}
        for name, row in found.items()
    }
    plan = tflite.make_plan(tflite.read_ops(trained), "int8", calibration_images=24)

    def quantized(content):
        return tflite.quantize(content, found, plan)

    corrected = bias_correction.correct_biases(trained, learn, quantized)
    names = list(ops.bias_locations(quantized(trained)))
    want, before, after = (
        _means(content, held, names)
        for content in (trained, quantized(trained), quantized(corrected))
    )

    def off(got):
        return np.array([np.abs((got[n] - want[n]).mean(0)).mean() / want[n].std() for n in names])

    assert np.median(off(after) / off(before)) < 0.7
    assert off(after)[-1] < off(before)[-1]


def _clipped(content):
    graph = Graph(content)
    return [graph.name(op.output) for op in graph.operations if op.name == "CONV_2D"][:2]


def test_only_biases_change(trained, photos):
    corrected = bias_correction.correct_biases(
        trained, photos[:16], _quantizer(trained, photos[:16])
    )
    before, after = Graph(trained), Graph(corrected)
    assert tflite.read_ops(corrected) == tflite.read_ops(trained)
    moved = 0
    for a, b in zip(before.operations, after.operations):
        if a.name in LINEAR:
            np.testing.assert_array_equal(before.constant(a.inputs[1]), after.constant(b.inputs[1]))
            moved += np.any(before.constant(a.inputs[2]) != after.constant(b.inputs[2]))
    assert moved > 5


def test_one_image_with_huge_errors_does_not_decide(trained_v1, photos, monkeypatch):
    """With a mean it would."""
    quantized = _quantizer(trained_v1, photos[:16])
    mean, names = bias_correction._mean, []

    def shifted(values, name, bounds=None):
        """0 for the float model; 0.1 for the quantized one, and 500 on its first image."""
        value = mean(values, name, bounds)
        if isinstance(name, str):
            names.append(name)
            return np.zeros_like(value)
        seen[name] = seen.get(name, -1) + 1
        return np.full_like(value, 0.1 if seen[name] else 500)

    seen = {}
    monkeypatch.setattr(bias_correction, "_mean", shifted)
    graph = Graph(trained_v1)
    corrected = Graph(bias_correction.correct_biases(trained_v1, photos[:8], quantized))
    assert len(seen) == len(set(names)) > 5
    for name in names:
        a, b = (n.constant(_bias_of(n, name)) for n in (graph, corrected))
        np.testing.assert_allclose(a - b, 0.1, atol=1e-5)


def test_shared_biases_are_corrected_separately(float_content, photos):
    """TensorFlow stores one buffer of zeros for all layers without a bias."""
    quantized = _quantizer(float_content, photos[:16])
    files = []

    def recorded(content):
        files.append(quantized(content))
        return files[-1]

    bias_correction.correct_biases(float_content, photos[:4], recorded)
    places = ops.bias_locations(files[0])
    starts = [start for start, _ in places.values()]
    assert len(starts) > 5
    assert len(set(starts)) == len(starts)


def test_biases_of_float32_operations_do_not_change(trained, photos):
    found = tflite.calibrate(trained, photos[:16])
    plan = tflite.make_plan(tflite.read_ops(trained), "int8", calibration_images=16)
    graph = Graph(trained)
    last = graph.name([op for op in graph.operations if op.name in LINEAR][-1].output)
    plan = plan.with_floats((last,), "asked")
    corrected = Graph(
        bias_correction.correct_biases(
            trained, photos[:16], lambda content: tflite.quantize(content, found, plan)
        )
    )
    before, after = (n.constant(_bias_of(n, last)) for n in (graph, corrected))
    np.testing.assert_array_equal(before, after)


def test_clipped_tail_before_a_swish_is_not_corrected(trained_v1, photos):
    """Swish is almost 0 there: moving the bias by the tail's mean would spoil the other values."""
    graph = Graph(trained_v1)
    swish = next(swish for swish in swishes(graph) if graph.shape(swish.z)[1] > 1)
    name = graph.name(swish.z)
    layer = next(op for op in graph.operations if op.output == swish.z)
    ranges = tflite.calibrate(trained_v1, photos[:16])
    low = ranges[name]["min"]
    ranges[name] = {"min": 0.2 * low, "max": ranges[name]["max"]}
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8", calibration_images=16)

    def shift(*arguments):
        corrected = Graph(
            bias_correction.correct_biases(
                trained_v1,
                photos[:16],
                lambda model: tflite.quantize(model, ranges, plan),
                *arguments,
            )
        )
        op = next(op for op in corrected.operations if corrected.name(op.output) == name)
        return np.abs(corrected.constant(op.inputs[2]) - graph.constant(layer.inputs[2])).mean()

    assert shift(ranges) < 0.2 * shift()
