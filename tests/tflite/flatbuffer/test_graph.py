import dataclasses

import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer import rewrite
from tflite.flatbuffer.graph import LINEAR, Network, swishes


def _scores(content, images):
    return litert.scores(litert.interpreter(content), images)


def _find(network, name, nth=0):
    return [op for op in network.operations if op.name == name][nth]


def test_written_back_it_gives_the_same_answers_aligned(trained, photos):
    network = Network(trained)
    content = network.content()
    np.testing.assert_array_equal(_scores(content, photos[:4]), _scores(trained, photos[:4]))
    assert rewrite.misaligned_buffers(content) == 0
    assert tflite.read_ops(content) == tflite.read_ops(trained)
    assert network.content() == content  # it can still be written, and changed, afterwards


def test_a_constant_is_a_copy_until_it_is_set(trained, photos):
    network = Network(trained)
    bias = _find(network, "FULLY_CONNECTED").inputs[2]
    value = network.constant(bias)
    value += 1
    assert not np.array_equal(network.constant(bias), value)
    value += np.arange(10, dtype=np.float32)
    network.set_constant(bias, value)
    np.testing.assert_array_equal(network.constant(bias), value)
    before = np.log(_scores(trained, photos[:1]))
    after = np.log(_scores(network.content(), photos[:1]))
    np.testing.assert_allclose(np.diff(after - before), 1, atol=1e-3)


def test_a_constant_of_another_shape_is_an_error(trained):
    network = Network(trained)
    with pytest.raises(ValueError, match=r"has shape \(10,\), not \(3,\)"):
        network.set_constant(_find(network, "FULLY_CONNECTED").inputs[2], np.zeros(3))


def test_equal_biases_that_a_converter_shares_change_one_by_one(float_content):
    """Converters keep one tensor of zeros for all operations that add nothing."""
    network = Network(float_content)
    biases = [op.inputs[2] for op in network.operations if op.name in LINEAR and op.inputs[2] >= 0]
    assert len(set(biases)) == len(biases)
    for number, bias in enumerate(biases):
        network.set_constant(bias, np.full(network.shape(bias), number, np.float32))
    for number, bias in enumerate(biases):
        assert (network.constant(bias) == number).all()


def test_a_bias_that_two_operations_read_becomes_each_ones_own(trained_v1, photos):
    tools = rewrite.flatbuffer_tools()
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
    shared = rewrite.write(tree)

    network = Network(shared)
    a, b = (
        op.inputs[2]
        for op in network.operations
        if op.output in (first.outputs[0], second.outputs[0])
    )
    assert a != b
    np.testing.assert_array_equal(network.constant(a), network.constant(b))
    np.testing.assert_array_equal(
        _scores(network.content(), photos[:4]), _scores(shared, photos[:4])
    )


def test_a_buffer_that_tensors_share_is_left_to_the_others(trained):
    network = Network(trained)
    bias = _find(network, "FULLY_CONNECTED").inputs[2]
    twin = network.add_constant("twin", network.constant(bias))
    network._graph.tensors[twin].buffer = network._graph.tensors[bias].buffer
    want = network.constant(twin)
    network.set_constant(bias, want + 1)
    np.testing.assert_array_equal(network.constant(twin), want)


def test_new_tensors_have_names_of_their_own(trained):
    """The quantizer refuses a file in which two tensors have one name."""
    network = Network(trained)
    made = [network.add_constant("factor", np.ones(3)) for _ in range(3)]
    made += [network.add_tensor("factor", (1, 3))]
    assert len({network.name(tensor) for tensor in made}) == 4
    assert network.name(made[0]) == "factor"


def test_an_inserted_operation_runs_before_its_reader(trained, photos):
    network = Network(trained)
    last = _find(network, "SOFTMAX")
    logits = last.inputs[0]
    half = network.add_constant("half", np.full((1, 1), 0.5, np.float32))
    out = network.add_tensor("halved", network.shape(logits))
    options, kind = network.options("MulOptions")
    network.insert(last, "MUL", (logits, half), out, options, kind)
    network.rewire(last, logits, out)
    want = np.sqrt(_scores(trained, photos[:4]))
    np.testing.assert_allclose(
        _scores(network.content(), photos[:4]), want / want.sum(-1, keepdims=True), atol=1e-5
    )
    assert [op.name for op in network.operations][-2:] == ["MUL", "SOFTMAX"]


def test_removed_operations_are_gone(trained):
    network = Network(trained)
    softmax = _find(network, "SOFTMAX")
    network.remove([softmax])
    assert softmax not in network.operations
    assert len(network.operations) == len(tflite.read_ops(trained)) - 1


def test_producers_and_consumers_are_the_graphs_edges(trained):
    network = Network(trained)
    writers, readers = network.producers(), network.consumers()
    for op in network.operations:
        assert all(writers[tensor] is op for tensor in op.outputs)
        assert all(op in readers[tensor] for tensor in op.inputs if tensor >= 0)
    assert network.input not in writers
    assert network.output not in readers


def test_fused_activations_are_named(trained_lite):
    network = Network(trained_lite)
    fused = {op.fused for op in network.operations if op.name == "DEPTHWISE_CONV_2D"}
    assert fused == {"RELU6"}
    assert _find(network, "FULLY_CONNECTED").fused == "NONE"


def test_every_swish_is_found_and_no_gate(trained):
    """As many as activations in the network: squeeze-excite's gates are sigmoids without."""
    network = Network(trained)
    found = swishes(network)
    names = {network.name(swish.product.output) for swish in found}
    gates = [op for op in network.operations if op.name == "LOGISTIC"]
    gates = [op for op in gates if "se_expand" in network.name(op.output)]
    assert len(gates) >= 2
    assert len(found) == sum(op.name == "LOGISTIC" for op in network.operations) - len(gates)
    assert not any("excite" in name for name in names)
    assert all(swish.factor is None for swish in found)
    assert all(swish.product.output != swish.z for swish in found)


def test_networks_without_a_swish_have_none(trained_lite):
    assert swishes(Network(trained_lite)) == []


def test_operations_of_a_swish_are_its_own(trained):
    swish = swishes(Network(trained))[0]
    assert [op.name for op in swish.operations] == ["LOGISTIC", "MUL"]
    assert len(dataclasses.replace(swish, factor=swish.product).operations) == 3
