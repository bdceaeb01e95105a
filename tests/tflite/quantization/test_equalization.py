import functools

import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import equalization
from tflite.quantization.calibration import collect_histograms
from tflite.quantization.objective import Objective
from tflite.quantization.range_estimation import estimate_ranges


def _scores(content, images):
    return runner.scores(content, images)


def _difference(before, after, images):
    return np.abs(_scores(before, images) - _scores(after, images)).max()


def _before_swish(graph):
    return tuple(graph.name(swish.z) for swish in swishes(graph))


@functools.cache
def _rescaled(content, through=False, sd=1.5):
    """The same function, with the channels of every group scaled by factors around e^1.5."""
    graph = Graph(content)
    names = _before_swish(graph) if through else ()
    rng = np.random.default_rng(1)
    for group in equalization.groups(graph, through_swish=names):
        channels = graph.shape(group.tensors[0])[-1]
        equalization.apply_scale(graph, group, np.exp(rng.normal(0, sd, channels)))
    return graph.content()


def _histograms(content, photos):
    return _cached_histograms(content, len(photos), photos.tobytes(), photos.shape)


@functools.cache
def _cached_histograms(content, _, pixels, shape):
    return collect_histograms(content, np.frombuffer(pixels, np.uint8).reshape(shape))


def _divergence(content, reference, photos):
    """KL divergence of the min-max int8 file of `content` from the float `reference`, in nats."""
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=len(photos))
    found = estimate_ranges(content, _histograms(content, photos), "minmax")
    return Objective(reference, photos)(tflite.quantize(content, found, plan))[0]


def test_groups_contain_residual_streams_and_se_products(trained):
    graph = Graph(trained)
    found = equalization.groups(graph, through_swish=_before_swish(graph))
    members = {tensor: group for group in found for tensor in group.tensors}
    sums = [op for op in graph.operations if op.name == "ADD"]
    assert len(sums) == 2
    for op in sums:
        assert {members[tensor] for tensor in [*op.inputs, op.output]} == {members[op.output]}
    for op in graph.operations:
        if "se_excite" in graph.name(op.output):
            feature, gate = op.inputs
            assert members[feature] is members[op.output]
            assert gate not in members


def test_groups_contain_no_input_of_a_nonlinear_operation(trained):
    graph = Graph(trained)
    for names in ((), _before_swish(graph)):
        found = equalization.groups(graph, through_swish=names)
        assert found
        passed = {id(op) for group in found for s in group.swishes for op in s.operations}
        tensors = {tensor for group in found for tensor in group.tensors}
        assert not tensors & {graph.input, graph.output}
        for op in graph.operations:
            if op.name in ("LOGISTIC", "SOFTMAX") and id(op) not in passed:
                assert not tensors & {*op.inputs, *op.outputs}


def test_groups_pass_swishes_only_on_request(trained):
    graph = Graph(trained)
    inside = {t for swish in swishes(graph) for t in (swish.z, swish.product.output)}
    for group in equalization.groups(graph):
        assert not group.swishes
        assert not inside & set(group.tensors)


def test_mean_over_channels_ends_a_group(trained):
    """Although it may have as many values left as there were channels."""
    graph = Graph(trained)
    stream = equalization.groups(graph)[0].tensors
    op = next(op for op in graph.operations if op.name == "ADD" and op.output in stream)
    axes = next(op for op in graph.operations if op.name == "MEAN").inputs[1]
    reader = next(r for r in graph.operations if op.output in r.inputs)
    out = graph.add_tensor("mean", graph.shape(op.output)[:-1])
    options, kind = graph.options("ReducerOptions")
    graph.insert(reader, "MEAN", (op.output, axes), out, options, kind)
    assert op.output in {t for group in equalization.groups(graph) for t in group.tensors}
    last = graph._graph.tensors[axes]
    graph._tree.buffers[last.buffer].data = np.array([2, 3], np.int32).view(np.uint8)
    assert op.output not in {t for group in equalization.groups(graph) for t in group.tensors}


def test_relu6_ends_a_group_and_relu_does_not(trained_lite):
    graph = Graph(trained_lite)
    clipped = {op.output for op in graph.operations if op.fused == "RELU6"}
    tensors = {tensor for group in equalization.groups(graph) for tensor in group.tensors}
    assert tensors
    assert clipped
    assert not clipped & tensors
    for op in graph.operations:
        if op.fused == "RELU6":
            op.raw.builtinOptions.fusedActivationFunction = 1  # RELU
    assert clipped <= {tensor for group in equalization.groups(graph) for tensor in group.tensors}


@pytest.mark.parametrize("through", [False, True], ids=["linear", "through swishes"])
def test_random_factors_do_not_change_the_scores(trained, photos, through):
    rescaled = _rescaled(trained, through)
    assert _difference(trained, rescaled, photos[:8]) < 1e-4
    before, after = Graph(trained), Graph(rescaled)
    kernels = [
        [graph.constant(op.inputs[1]) for op in graph.operations if op.name in LINEAR]
        for graph in (before, after)
    ]
    assert any(np.abs(a - b).max() > 0.1 for a, b in zip(*kernels))
    more = len(after.operations) - len(before.operations)
    assert more == (len(swishes(before)) if through else 0)


def test_random_factors_do_not_change_a_relu6_network(trained_lite, photos):
    rescaled = _rescaled(trained_lite)
    assert rescaled != trained_lite
    assert _difference(trained_lite, rescaled, photos[:8]) < 1e-4


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("through", [False, True], ids=["linear", "through swishes"])
def test_equalization_does_not_change_the_scores(trained, photos, strength, through):
    names = _before_swish(Graph(trained)) if through else ()
    changed = equalization.equalize(
        trained, _histograms(trained, photos[:16]), strength=strength, through_swish=names
    )
    assert changed != trained
    assert _difference(trained, changed, photos[:8]) < 1e-4


@pytest.mark.parametrize("through", [False, True], ids=["linear", "through swishes"])
def test_equalization_recovers_a_rescaled_network(trained, photos, through):
    """With min-max ranges, its divergence was many times larger."""
    photos = photos[:24]
    rescaled = _rescaled(trained, through)
    names = _before_swish(Graph(rescaled)) if through else ()
    plain = _divergence(trained, trained, photos)
    bad = _divergence(rescaled, trained, photos)
    assert bad > (30 if through else 5) * plain
    changed = equalization.equalize(rescaled, _histograms(rescaled, photos), through_swish=names)
    assert _divergence(changed, trained, photos) < 1.6 * plain


def test_full_strength_equalizes_absolute_maxima(trained, photos):
    rescaled = _rescaled(trained)
    (tensors,) = (
        group.tensors for group in equalization.groups(Graph(rescaled)) if len(group.tensors) == 3
    )
    changed = equalization.equalize(rescaled, _histograms(rescaled, photos), strength=1.0)

    def spread(content):
        histograms = _histograms(content, photos)
        maximum = np.max(
            [
                each / each.max()
                for row in (histograms[Graph(content).name(tensor)] for tensor in tensors)
                for each in [np.maximum(np.abs(row.channel_low), np.abs(row.channel_high))]
            ],
            axis=0,
        )
        return maximum.max() / maximum.min()

    assert spread(rescaled) > 10
    assert spread(changed) < 3


def test_second_equalization_adds_no_operation(trained, photos):
    names = _before_swish(Graph(trained))
    once = equalization.equalize(trained, _histograms(trained, photos[:16]), through_swish=names)
    twice = equalization.equalize(
        once, _histograms(once, photos[:16]), strength=1.0, through_swish=names
    )
    assert ops.count_ops(tflite.read_ops(twice)) == ops.count_ops(tflite.read_ops(once))
    assert _difference(trained, twice, photos[:8]) < 1e-4
    assert len(twice) <= len(once)
    _divergence(twice, trained, photos[:16])  # the quantizer takes it
    found = swishes(Graph(twice))
    assert len(found) == len(names)
    assert all(swish.factor is not None for swish in found)


def test_scalar_factor_becomes_one_per_channel(trained, photos):
    graph = Graph(trained)
    swish = swishes(graph)[0]
    beta = graph.add_constant("beta", np.array(1.5, np.float32))
    out = graph.add_tensor("scaled", graph.shape(swish.z))
    options, kind = graph.options("MulOptions")
    graph.insert(swish.logistic, "MUL", (swish.z, beta), out, options, kind)
    graph.rewire(swish.logistic, swish.z, out)
    content = graph.content()
    assert swishes(Graph(content))[0].factor is not None
    rescaled = _rescaled(content, through=True)
    assert _difference(content, rescaled, photos[:4]) < 1e-4
    factor = swishes(Graph(rescaled))[0].factor
    channels = graph.shape(swish.z)[-1]
    assert Graph(rescaled).shape(factor.inputs[1]) == (1, 1, 1, channels)


def test_equalization_that_changes_scores_is_an_error(trained, photos, monkeypatch):
    kept = Graph.set_constant
    monkeypatch.setattr(
        Graph, "set_constant", lambda self, tensor, value: kept(self, tensor, 1.01 * value)
    )
    with pytest.raises(tflite.ConversionError, match=r"equalization changes the scores by"):
        equalization.equalize(trained, _histograms(trained, photos[:16]), images=photos[:4])


def test_unused_channels_are_scaled_within_limits(trained, photos):
    graph = Graph(trained)
    group = equalization.groups(graph)[0]
    for op in graph.operations:
        if op.output in group.tensors and op.name in LINEAR:
            for tensor in op.inputs[1:]:
                value = graph.constant(tensor)
                value[0] = 0
                graph.set_constant(tensor, value)
    content = graph.content()
    changed = equalization.equalize(content, _histograms(content, photos[:16]), images=photos[:4])
    values = [
        Graph(changed).constant(op.inputs[1])
        for op in Graph(changed).operations
        if op.name in LINEAR
    ]
    assert all(np.isfinite(value).all() for value in values)
    assert max(np.abs(value).max() for value in values) < 1e4


@pytest.mark.parametrize("through", [False, True])
def test_scaled_tensors_are_exactly_those_that_change(trained_v1, photos, through):
    names = _before_swish(Graph(trained_v1)) if through else ()
    before = _histograms(trained_v1, photos[:16])
    changed = equalization.equalize(trained_v1, before, through_swish=names)
    names_scaled = equalization.scaled_tensors(changed, through_swish=names)
    after = _histograms(changed, photos[:16])
    assert names_scaled <= before.keys() <= after.keys()
    for name, row in before.items():
        maximum = max(abs(row.low), abs(row.high))
        ends = np.abs([after[name].channel_high - row.channel_high,
                       after[name].channel_low - row.channel_low])  # fmt: skip
        assert (ends.max() > 1e-3 * maximum) == (name in names_scaled), name
