import collections

import pytest

import tflite
from keras_effnet.litert import metadata, ops, runtime


def test_part_sizes_add_up_to_the_file(float_content, int8_content):
    for content in (float_content, int8_content):
        parts = ops.size_by_part(content)
        assert sum(parts.values()) == len(content)
        assert min(parts.values()) > 0


def test_weights_are_counted_by_data_type(float_content, int8_content):
    floats, ints = map(ops.size_by_part, (float_content, int8_content))
    assert floats["convolution weights, float32"] == 4 * ints["convolution weights, int8"]
    assert floats["classifier weights, float32"] == 4 * 32 * 10
    assert floats["biases"] == ints["biases"]  # int32
    assert "scales and zero points" in ints.keys() - floats.keys()


def test_labels_are_counted_as_metadata(float_content):
    names = [f"class number {i}" for i in range(10)]
    labelled = metadata.attach(float_content, labels=names)
    before, after = map(ops.size_by_part, (float_content, labelled))
    grown = after["labels and metadata"] - before["labels and metadata"]
    assert grown > len("".join(names))
    assert after["structure"] == pytest.approx(before["structure"], abs=1500)


def test_ops_have_the_data_types_of_their_values(int8_content):
    kinds = collections.Counter(map(str, ops.read_ops(int8_content)))
    assert kinds["DEQUANTIZE uint8->float32"] == kinds["QUANTIZE float32->int8"] == 1
    assert kinds["FULLY_CONNECTED float32"] == kinds["SOFTMAX float32"] == 1
    assert kinds["DEQUANTIZE int8->float32"] == 2  # the last layer's input, and its weights
    assert kinds["SUB float32"] == 1
    assert kinds["CONV_2D int8"] > 5


def test_ops_have_the_output_of_the_tensor_at_their_index(int8_content):
    names = {d["index"]: d["name"] for d in runtime.interpreter(int8_content).get_tensor_details()}
    rows = ops.read_ops(int8_content)
    assert len(rows) > 40
    assert all(names[op.index] == op.output for op in rows)


@pytest.mark.parametrize(
    ("name", "first_input", "weights", "output", "want"),
    [
        ("ADD", "FLOAT32", "", "FLOAT32", "float32"),
        ("CONV_2D", "INT8", "INT8", "INT8", "int8"),
        ("CONV_2D", "FLOAT32", "INT8", "FLOAT32", "hybrid"),
        ("FULLY_CONNECTED", "FLOAT32", "INT4", "FLOAT32", "hybrid"),
        ("CONV_2D", "FLOAT32", "FLOAT32", "FLOAT32", "float32"),
        ("QUANTIZE", "UINT8", "", "INT8", "uint8->int8"),
        ("GATHER", "INT32", "", "FLOAT32", "float32"),
    ],
)
def test_types_name_the_values_of_an_op(name, first_input, weights, output, want):
    assert ops._types(name, [first_input], weights, output) == want


def test_an_op_without_inputs_has_the_type_of_its_output():
    assert ops._types("RANDOM_UNIFORM", [], "", "FLOAT32") == "float32"


def test_count_ops_counts_every_op(float_content):
    counts = ops.count_ops(tflite.read_ops(float_content))
    assert counts["DEPTHWISE_CONV_2D"] == 2
    assert counts["SOFTMAX"] == 1
    assert sum(counts.values()) == len(tflite.read_ops(float_content))


def test_activations_are_the_input_and_every_output(float_content):
    names = ops.activations(float_content)
    assert len(names) == len(tflite.read_ops(float_content)) + 1  # and the input


def test_bias_locations_point_at_the_bias_values(int8_content):
    """The bytes at each location are those of the bias buffer."""
    places = ops.bias_locations(int8_content)
    assert len(places) > 10
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(int8_content))
    tensors = tree.subgraphs[0].tensors
    for op in tree.subgraphs[0].operators:
        name = tensors[op.outputs[0]].name.decode()
        if name in places:
            start, scales = places[name]
            want = bytes(tree.buffers[tensors[op.inputs[2]].buffer].data)
            assert int8_content[start : start + len(want)] == want
            assert len(scales) == len(want) // 4
