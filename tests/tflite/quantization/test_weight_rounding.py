import itertools

import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization import weight_rounding
from tflite.quantization.calibration import calibrate, hash_order


def _correlated(rng, groups, inputs, rank=2):
    """Mean products of inputs that mostly follow `rank` directions."""
    rows = rng.normal(size=(groups, 400, rank)) @ rng.normal(size=(groups, rank, inputs))
    rows += 0.05 * rng.normal(size=rows.shape)
    return rows.swapaxes(1, 2) @ rows / 400


def _change(weights, rounded, square):
    """Mean square of what rounding changes in each sum."""
    error = rounded - weights
    return np.einsum("gsi,gij,gsj->gs", error, square, error)


def _nearest(weights):
    step = np.abs(weights).max(-1, keepdims=True) / 127
    return np.rint(weights / step) * step


@pytest.mark.parametrize(("groups", "sums", "inputs"), [(1, 16, 40), (24, 1, 9), (3, 4, 25)])
def test_inputs_that_go_together_let_weights_make_up_for_each_other(groups, sums, inputs):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(groups, sums, inputs)).astype(np.float32)
    square = _correlated(rng, groups, inputs)
    change = _change(weights, weight_rounding.round_to_grid(weights, square), square)
    nearest = _change(weights, _nearest(weights), square)
    assert change.mean() < 0.2 * nearest.mean()


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest_code():
    weights = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    square = np.stack([np.diag(np.arange(1.0, 13)), np.eye(12)])
    rounded = weight_rounding.round_to_grid(weights, square)
    np.testing.assert_allclose(rounded, _nearest(weights), atol=1e-6)


def test_a_few_weights_come_close_to_the_best_of_all_roundings():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 1, 4)).astype(np.float32)
    square = _correlated(rng, 40, 4, rank=1)
    change = _change(weights, weight_rounding.round_to_grid(weights, square), square)
    step = np.abs(weights).max(-1, keepdims=True) / 127
    ways = np.array(list(itertools.product((-1, 0, 1), repeat=4)))[:, None, None]
    codes = np.clip(np.rint(weights / step) + ways, -127, 127)  # all near ones
    best = np.array([_change(weights, way * step, square) for way in codes]).min(0)
    assert np.median(change / best) < 3
    assert np.median(_change(weights, _nearest(weights), square) / best) > 10


def test_the_grid_is_the_one_that_quantization_takes():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 50, 30)).astype(np.float32)
    rounded = weight_rounding.round_to_grid(weights, _correlated(rng, 1, 30))
    reach = np.abs(weights).max(-1)
    np.testing.assert_allclose(np.abs(rounded).max(-1), reach, rtol=1e-5)
    codes = rounded / (reach[..., None] / 127)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)


def test_weights_and_inputs_of_nothing_but_zeros_stay():
    weights = np.zeros((1, 2, 5), np.float32)
    weights[0, 1] = [1, 2, 3, 4, 5.08]
    rounded = weight_rounding.round_to_grid(weights, np.zeros((1, 5, 5)))
    assert (rounded[0, 0] == 0).all()
    np.testing.assert_allclose(rounded, _nearest(weights + 1e-30), atol=1e-6)


def _stored(content):
    """{tensor of the float file: the weights that a quantized file of it holds, as numbers}."""
    made = litert.interpreter(content)
    found = {}
    for row in made.get_tensor_details():
        scales = row["quantization_parameters"]["scales"]
        if row["dtype"] == np.int8 and len(scales) > 1:
            shape = [1] * len(row["shape"])
            shape[row["quantization_parameters"]["quantized_dimension"]] = -1
            found[row["name"]] = made.get_tensor(row["index"]) * scales.reshape(shape)
    return found


def test_a_file_holds_the_weights_as_they_were_rounded(trained, photos):
    content = weight_rounding.round_weights(trained, photos[hash_order(photos)][:16])
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    stored = _stored(tflite.quantize(content, calibrate(content, photos[:16]), plan))
    network = Graph(content)
    seen = 0
    for op in network.operations:
        if op.name in LINEAR and network.name(op.inputs[1]) in stored:
            want = network.constant(op.inputs[1])
            got = stored[network.name(op.inputs[1])]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
            seen += 1
    assert seen > 5


def _scores(content, photos):
    return litert.scores(litert.interpreter(content), photos)


def _weights_alone(content, photos, images):
    """Mean square of what int8 weights with float activations change in the scores: the nearest
    codes, and codes rounded together.
    """
    rounded = weight_rounding.round_weights(content, images)
    files = [tflite.convert(c, preset="weight_only").tflite for c in (content, rounded)]
    want = _scores(content, photos)
    return [float(np.square(_scores(file, photos) - want).mean()) for file in files]


def test_weights_rounded_together_change_the_scores_less_on_other_images(trained, photos):
    nearest, together = _weights_alone(trained, photos[32:], photos[:32])
    assert together < 0.5 * nearest


def test_networks_without_swish_and_with_borders_of_their_own(trained_lite, trained_odd, photos):
    nearest, together = _weights_alone(trained_lite, photos[32:], photos[:32])
    assert together < 0.5 * nearest
    content, odd = trained_odd
    nearest, together = _weights_alone(content, odd[12:], odd[:12])
    assert together < nearest


def test_a_layers_inputs_are_those_that_its_outputs_are_made_of(trained, photos):
    network = Graph(trained)
    made = litert.interpreter(trained, keep_tensors=True)
    made.set_tensor(network.input, photos[:1].astype(np.float32))
    made.invoke()
    kinds = set()
    for op in network.operations:
        if not weight_rounding.can_round(network, op) or op.fused != "NONE":
            continue
        layer = weight_rounding.Layer(network, op)
        rows = layer.inputs(network, made.get_tensor(op.inputs[0]))
        got = np.einsum("gpi,gsi->pgs", rows, layer.weights(network))
        got = got.reshape(len(got), -1)
        if op.inputs[2] >= 0:
            got = got + network.constant(op.inputs[2])
        want = made.get_tensor(op.output).reshape(-1, got.shape[-1])
        want = want[:: -(-len(want) // len(got))]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
        kinds.add((op.name, layer.window))
    assert {name for name, _ in kinds} >= {"CONV_2D", "DEPTHWISE_CONV_2D"}
    assert {window for _, window in kinds} >= {(1, 1), (3, 3)}
