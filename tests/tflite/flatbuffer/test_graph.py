import dataclasses

import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner, runtime, writer
from tflite.flatbuffer.graph import LINEAR, Graph, swishes


def _scores(content, images):
    return runner.scores(content, images)


def _find(graph, name, nth=0):
    return [op for op in graph.operations if op.name == name][nth]


def test_content_gives_the_same_scores_with_aligned_buffers(trained, photos):
    graph = Graph(trained)
    content = graph.content()
    np.testing.assert_array_equal(_scores(content, photos[:4]), _scores(trained, photos[:4]))
    assert ops.misaligned_buffers(content) == 0
    assert tflite.read_ops(content) == tflite.read_ops(trained)
    assert graph.content() == content  # it can still be written, and changed, afterwards


def test_constants_are_copies_until_they_are_set(trained, photos):
    graph = Graph(trained)
    bias = _find(graph, "FULLY_CONNECTED").inputs[2]
    value = graph.constant(bias)
    value += 1
    assert not np.array_equal(graph.constant(bias), value)
    value += np.arange(10, dtype=np.float32)
    graph.set_constant(bias, value)
    np.testing.assert_array_equal(graph.constant(bias), value)
    before = np.log(_scores(trained, photos[:1]))
    after = np.log(_scores(graph.content(), photos[:1]))
    np.testing.assert_allclose(np.diff(after - before), 1, atol=1e-3)


def test_a_constant_of_another_shape_is_an_error(trained):
    graph = Graph(trained)
    with pytest.raises(ValueError, match=r"has shape \(10,\), not \(3,\)"):
        graph.set_constant(_find(graph, "FULLY_CONNECTED").inputs[2], np.zeros(3))


def test_shared_biases_can_be_changed_one_by_one(float_content):
    """Converters keep one tensor of zeros for all operations that add nothing."""
    graph = Graph(float_content)
    biases = [op.inputs[2] for op in graph.operations if op.name in LINEAR and op.inputs[2] >= 0]
    assert len(set(biases)) == len(biases)
    for number, bias in enumerate(biases):
        graph.set_constant(bias, np.full(graph.shape(bias), number, np.float32))
    for number, bias in enumerate(biases):
        assert (graph.constant(bias) == number).all()


def test_a_bias_that_two_operations_read_is_copied(trained_v1, photos):
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(trained_v1))
    rows = [op for op in tree.subgraphs[0].operators if len(op.inputs) == 3]
    shapes = [tuple(tree.subgraphs[0].tensors[op.inputs[2]].shape) for op in rows]
    first, second = next(
        (a, b)
        for i, (a, x) in enumerate(zip(rows, shapes))
        for b, y in zip(rows[i + 1 :], shapes[i + 1 :])
        if x == y
    )
    second.inputs = [*second.inputs[:2], first.inputs[2]]
    shared = writer.write(tree)

    graph = Graph(shared)
    a, b = (
        op.inputs[2]
        for op in graph.operations
        if op.output in (first.outputs[0], second.outputs[0])
    )
    assert a != b
    np.testing.assert_array_equal(graph.constant(a), graph.constant(b))
    np.testing.assert_array_equal(_scores(graph.content(), photos[:4]), _scores(shared, photos[:4]))


def test_set_constant_keeps_tensors_that_share_the_buffer(trained):
    graph = Graph(trained)
    bias = _find(graph, "FULLY_CONNECTED").inputs[2]
    twin = graph.add_constant("twin", graph.constant(bias))
    graph._graph.tensors[twin].buffer = graph._graph.tensors[bias].buffer
    want = graph.constant(twin)
    graph.set_constant(bias, want + 1)
    np.testing.assert_array_equal(graph.constant(twin), want)


def test_new_tensors_have_unique_names(trained):
    """The quantizer refuses a file in which two tensors have one name."""
    graph = Graph(trained)
    tensors = [graph.add_constant("factor", np.ones(3)) for _ in range(3)]
    tensors += [graph.add_tensor("factor", (1, 3))]
    assert len({graph.name(tensor) for tensor in tensors}) == 4
    assert graph.name(tensors[0]) == "factor"


def test_an_inserted_operation_runs_before_its_reader(trained, photos):
    graph = Graph(trained)
    last = _find(graph, "SOFTMAX")
    logits = last.inputs[0]
    half = graph.add_constant("half", np.full((1, 1), 0.5, np.float32))
    out = graph.add_tensor("halved", graph.shape(logits))
    options, kind = graph.options("MulOptions")
    graph.insert(last, "MUL", (logits, half), out, options, kind)
    graph.rewire(last, logits, out)
    want = np.sqrt(_scores(trained, photos[:4]))
    np.testing.assert_allclose(
        _scores(graph.content(), photos[:4]), want / want.sum(-1, keepdims=True), atol=1e-5
    )
    assert [op.name for op in graph.operations][-2:] == ["MUL", "SOFTMAX"]


def test_removed_operations_are_gone(trained):
    graph = Graph(trained)
    softmax = _find(graph, "SOFTMAX")
    graph.remove([softmax])
    assert softmax not in graph.operations
    assert len(graph.operations) == len(tflite.read_ops(trained)) - 1


def test_producers_and_consumers_are_the_graphs_edges(trained):
    graph = Graph(trained)
    writers, readers = graph.producers(), graph.consumers()
    for op in graph.operations:
        assert all(writers[tensor] is op for tensor in op.outputs)
        assert all(op in readers[tensor] for tensor in op.inputs if tensor >= 0)
    assert graph.input not in writers
    assert graph.output not in readers


def test_fused_activations_are_named(trained_lite):
    graph = Graph(trained_lite)
    fused = {op.fused for op in graph.operations if op.name == "DEPTHWISE_CONV_2D"}
    assert fused == {"RELU6"}
    assert _find(graph, "FULLY_CONNECTED").fused == "NONE"


def test_swishes_are_found_and_gates_are_left_out(trained):
    """As many as activations in the graph: squeeze-excite's gates are sigmoids without."""
    graph = Graph(trained)
    matches = swishes(graph)
    names = {graph.name(swish.product.output) for swish in matches}
    gates = [op for op in graph.operations if op.name == "LOGISTIC"]
    gates = [op for op in gates if "se_expand" in graph.name(op.output)]
    assert len(gates) >= 2
    assert len(matches) == sum(op.name == "LOGISTIC" for op in graph.operations) - len(gates)
    assert not any("excite" in name for name in names)
    assert all(swish.factor is None for swish in matches)
    assert all(swish.product.output != swish.z for swish in matches)


def test_relu6_networks_have_no_swish(trained_lite):
    assert swishes(Graph(trained_lite)) == []


def test_a_swish_has_two_or_three_operations(trained):
    swish = swishes(Graph(trained))[0]
    assert [op.name for op in swish.operations] == ["LOGISTIC", "MUL"]
    assert len(dataclasses.replace(swish, factor=swish.product).operations) == 3
