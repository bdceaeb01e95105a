import itertools

import numpy as np
import pytest

import tflite
from keras_effnet.litert import runner, runtime
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization import weight_rounding
from tflite.quantization.calibration import calibrate, hash_order


def _correlated(rng, groups, inputs, rank=2):
    """Mean products of inputs that mostly lie in `rank` directions."""
    rows = rng.normal(size=(groups, 400, rank)) @ rng.normal(size=(groups, rank, inputs))
    rows += 0.05 * rng.normal(size=rows.shape)
    return rows.swapaxes(1, 2) @ rows / 400


def _change(weights, rounded, square):
    """Mean squared change of each sum by rounding."""
    error = rounded - weights
    return np.einsum("gsi,gij,gsj->gs", error, square, error)


def _nearest(weights):
    scale = np.abs(weights).max(-1, keepdims=True) / 127
    return np.rint(weights / scale) * scale


@pytest.mark.parametrize(("groups", "sums", "inputs"), [(1, 16, 40), (24, 1, 9), (3, 4, 25)])
def test_rounding_uses_the_correlation_of_inputs(groups, sums, inputs):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(groups, sums, inputs)).astype(np.float32)
    square = _correlated(rng, groups, inputs)
    change = _change(weights, weight_rounding.round_to_grid(weights, square), square)
    nearest = _change(weights, _nearest(weights), square)
    assert change.mean() < 0.2 * nearest.mean()


def test_uncorrelated_inputs_give_nearest_rounding():
    weights = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    square = np.stack([np.diag(np.arange(1.0, 13)), np.eye(12)])
    rounded = weight_rounding.round_to_grid(weights, square)
    np.testing.assert_allclose(rounded, _nearest(weights), atol=1e-6)


def test_few_weights_are_close_to_the_best_rounding():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 1, 4)).astype(np.float32)
    square = _correlated(rng, 40, 4, rank=1)
    change = _change(weights, weight_rounding.round_to_grid(weights, square), square)
    scale = np.abs(weights).max(-1, keepdims=True) / 127
    ways = np.array(list(itertools.product((-1, 0, 1), repeat=4)))[:, None, None]
    quantized = np.clip(np.rint(weights / scale) + ways, -127, 127)  # all near ones
    best = np.array([_change(weights, way * scale, square) for way in quantized]).min(0)
    assert np.median(change / best) < 3
    assert np.median(_change(weights, _nearest(weights), square) / best) > 10


def test_rounded_weights_are_on_the_grid_of_quantization():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 50, 30)).astype(np.float32)
    rounded = weight_rounding.round_to_grid(weights, _correlated(rng, 1, 30))
    maximum = np.abs(weights).max(-1)
    np.testing.assert_allclose(np.abs(rounded).max(-1), maximum, rtol=1e-5)
    quantized = rounded / (maximum[..., None] / 127)
    np.testing.assert_allclose(quantized, np.rint(quantized), atol=1e-3)


def test_zero_weights_and_inputs_are_kept():
    weights = np.zeros((1, 2, 5), np.float32)
    weights[0, 1] = [1, 2, 3, 4, 5.08]
    rounded = weight_rounding.round_to_grid(weights, np.zeros((1, 5, 5)))
    assert (rounded[0, 0] == 0).all()
    np.testing.assert_allclose(rounded, _nearest(weights + 1e-30), atol=1e-6)


def _stored(content):
    """{tensor: its dequantized weights in a quantized file}."""
    made = runtime.interpreter(content)
    found = {}
    for row in made.get_tensor_details():
        scales = row["quantization_parameters"]["scales"]
        if row["dtype"] == np.int8 and len(scales) > 1:
            shape = [1] * len(row["shape"])
            shape[row["quantization_parameters"]["quantized_dimension"]] = -1
            found[row["name"]] = made.get_tensor(row["index"]) * scales.reshape(shape)
    return found


def test_file_contains_the_rounded_weights(trained, photos):
    content = weight_rounding.round_weights(trained, photos[hash_order(photos)][:16])
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    stored = _stored(tflite.quantize(content, calibrate(content, photos[:16]), plan))
    graph = Graph(content)
    count = 0
    for op in graph.operations:
        if op.name in LINEAR and graph.name(op.inputs[1]) in stored:
            want = graph.constant(op.inputs[1])
            got = stored[graph.name(op.inputs[1])]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
            count += 1
    assert count > 5


def _scores(content, photos):
    return runner.scores(content, photos)


def _weights_alone(content, photos, images):
    """Mean squared change of the scores by int8 weights: (nearest rounding, weight rounding)."""
    rounded = weight_rounding.round_weights(content, images)
    files = [tflite.convert(c, preset="weight_only").tflite_model for c in (content, rounded)]
    want = _scores(content, photos)
    return [float(np.square(_scores(file, photos) - want).mean()) for file in files]


def test_rounding_changes_scores_less_on_other_images(trained, photos):
    nearest, rounded = _weights_alone(trained, photos[32:], photos[:32])
    assert rounded < 0.5 * nearest


def test_relu6_networks_and_odd_sizes_are_rounded(trained_lite, trained_odd, photos):
    nearest, rounded = _weights_alone(trained_lite, photos[32:], photos[:32])
    assert rounded < 0.5 * nearest
    content, odd = trained_odd
    nearest, rounded = _weights_alone(content, odd[12:], odd[:12])
    assert rounded < nearest


def test_layer_outputs_are_weights_times_inputs(trained, photos):
    graph = Graph(trained)
    tensors = [tensor for op in graph.operations for tensor in (op.inputs[0], op.output)]
    for row in runner.run(trained, photos[:1], tensors):
        values = {tensor: row[tensor] for tensor in tensors}
    kinds = set()
    for op in graph.operations:
        if not weight_rounding.can_round(graph, op) or op.fused != "NONE":
            continue
        layer = weight_rounding.Layer(graph, op)
        rows = layer.inputs(values[op.inputs[0]])
        got = np.einsum("gpi,gsi->pgs", rows, layer.weights(graph))
        got = got.reshape(len(got), -1)
        if op.inputs[2] >= 0:
            got = got + graph.constant(op.inputs[2])
        want = values[op.output].reshape(-1, got.shape[-1])
        want = want[:: -(-len(want) // len(got))]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
        kinds.add((op.name, graph.shape(op.inputs[1])[1:-1]))
    assert {name for name, _ in kinds} >= {"CONV_2D", "DEPTHWISE_CONV_2D"}
    assert {window for _, window in kinds} >= {(1, 1), (3, 3)}
