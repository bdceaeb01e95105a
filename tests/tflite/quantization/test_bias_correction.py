import functools

import numpy as np

import tflite
from tflite import litert
from tflite.flatbuffer import ops
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization import bias_correction, range_estimation
from tflite.quantization.calibration import collect_histograms


def _quantizer(content, photos, rule="minmax"):
    """Function from a float .tflite to its int8 version, with ranges of `content`."""
    found = estimate_ranges(content, collect_histograms(content, photos), rule)
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=len(photos))
    return lambda changed: tflite.quantize(changed, found, plan)


def _means(content, photos, names=None):
    if names is None:
        network = Graph(content)
        names = [network.name(op.output) for op in network.operations]
    return bias_correction.channel_means(content, photos, names)


def _bias_of(network, name):
    return next(op.inputs[2] for op in network.operations if network.name(op.output) == name)


@functools.cache
def _biased(content, shift):
    """(another quantized version than ours: a constant added to a bias after the fact, the
    tensor).
    """
    network = Graph(content)
    rows = [op for op in network.operations if op.name in LINEAR and len(op.inputs) > 2]
    op = rows[1]
    span = np.ptp(network.constant(op.inputs[2])) + 1
    network.set_constant(op.inputs[2], network.constant(op.inputs[2]) + shift * span)
    return network.content(), network.name(op.output)


def testchannel_means_are_the_float_tensors_own(trained, photos):
    means = _means(trained, photos[:4])
    made = litert.interpreter(trained, keep_tensors=True)
    made.set_tensor(made.get_input_details()[0]["index"], photos[2:3].astype(np.float32))
    made.invoke()
    network = Graph(trained)
    assert means.keys() == {network.name(op.output) for op in network.operations}
    for op in network.operations:
        value = made.get_tensor(op.output)
        want = value.reshape(-1, value.shape[-1]).mean(0)
        np.testing.assert_allclose(means[network.name(op.output)][2], want, rtol=1e-4, atol=1e-5)


def testchannel_means_of_int8_are_of_the_numbers_that_codes_stand_for(trained, photos):
    quantized = _quantizer(trained, photos[:16])(trained)
    stem = Graph(trained)
    stem = stem.name(next(op.output for op in stem.operations if op.name == "CONV_2D"))
    got, want = (_means(content, photos[:4], [stem])[stem] for content in (quantized, trained))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_a_known_bias_is_removed(trained, photos):
    """Of a quantizer that shifts one operation's output by a constant."""
    inner = _quantizer(trained, photos[:16])
    shifted, name = _biased(trained, 0.05)
    shift = Graph(shifted).constant(_bias_of(Graph(shifted), name)) - Graph(trained).constant(
        _bias_of(Graph(trained), name)
    )

    def quantized(content):
        network = Graph(content)
        bias = _bias_of(network, name)
        network.set_constant(bias, network.constant(bias) + shift)
        return inner(network.content())

    corrected = bias_correction.correct_biases(trained, photos[:16], quantized)
    want, before, after = (
        _means(content, photos[:16], [name])[name].mean(0)
        for content in (trained, quantized(trained), quantized(corrected))
    )
    assert np.abs(before - want).mean() > 0.5 * np.abs(shift).mean()
    assert np.abs(after - want).mean() < 0.2 * np.abs(before - want).mean()


def testchannel_means_come_nearer_throughout(trained, photos):
    """By ranges that clip, which shifts means, on images that were not corrected on."""
    learn, held = photos[:24], photos[24:]
    observed = collect_histograms(trained, learn)
    found = estimate_ranges(trained, observed, "minmax")
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
    network = Graph(content)
    return [network.name(op.output) for op in network.operations if op.name == "CONV_2D"][:2]


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


def test_one_image_of_huge_values_does_not_decide(trained_v1, photos, monkeypatch):
    """Its error would outweigh that of all others."""
    quantized = _quantizer(trained_v1, photos[:16])
    network = Graph(trained_v1)
    shapes = {network.name(op.output): network.shape(op.output)[-1] for op in network.operations}
    calls = []

    def means(content, images, names=None):
        calls.append(names or [op.output for op in tflite.read_ops(content)][-1:])
        found = {name: np.full((8, shapes[name]), 0.1 * (names is None)) for name in calls[-1]}
        for rows in found.values():
            rows[0] *= 5000
        return found

    monkeypatch.setattr(bias_correction, "channel_means", means)
    corrected = Graph(bias_correction.correct_biases(trained_v1, photos[:8], quantized))
    assert len(calls) > 5
    for (name,) in calls[1:]:
        a, b = (n.constant(_bias_of(n, name)) for n in (network, corrected))
        np.testing.assert_allclose(a - b, 0.1, atol=1e-5)


def test_biases_that_a_converter_shares_are_corrected_one_by_one(float_content, photos):
    """TensorFlow keeps one buffer of zeros for every layer that has no bias."""
    quantized = _quantizer(float_content, photos[:16])
    made = []

    def kept(content):
        made.append(quantized(content))
        return made[-1]

    bias_correction.correct_biases(float_content, photos[:4], kept)
    places = ops.bias_locations(made[0])
    starts = [start for start, _ in places.values()]
    assert len(starts) > 5
    assert len(set(starts)) == len(starts)


def test_biases_of_operations_that_stay_float_are_left(trained, photos):
    found = estimate_ranges(trained, collect_histograms(trained, photos[:16]), "minmax")
    plan = tflite.make_plan(tflite.read_ops(trained), "int8", calibration_images=16)
    network = Graph(trained)
    last = network.name([op for op in network.operations if op.name in LINEAR][-1].output)
    plan = plan.with_floats((last,), "asked")
    corrected = Graph(
        bias_correction.correct_biases(
            trained, photos[:16], lambda content: tflite.quantize(content, found, plan)
        )
    )
    before, after = (n.constant(_bias_of(n, last)) for n in (network, corrected))
    np.testing.assert_array_equal(before, after)
