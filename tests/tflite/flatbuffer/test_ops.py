import collections

import pytest

from tflite.flatbuffer import metadata, ops, rewrite


def test_the_parts_are_the_whole_file(float_content, int8_content):
    for content in (float_content, int8_content):
        parts = ops.size_by_part(content)
        assert sum(parts.values()) == len(content)
        assert min(parts.values()) > 0


def test_weights_are_told_apart_by_type(float_content, int8_content):
    floats, ints = map(ops.size_by_part, (float_content, int8_content))
    assert floats["convolution weights, float32"] == 4 * ints["convolution weights, int8"]
    assert floats["classifier weights, float32"] == 4 * 32 * 10
    assert floats["biases"] == ints["biases"]  # int32
    assert "scales and zero points" in ints.keys() - floats.keys()


def test_labels_are_not_structure(float_content):
    names = [f"class number {i}" for i in range(10)]
    labelled = metadata.attach(float_content, labels=names)
    before, after = map(ops.size_by_part, (float_content, labelled))
    grown = after["labels and metadata"] - before["labels and metadata"]
    assert grown > len("".join(names))
    assert after["structure"] == pytest.approx(before["structure"], abs=1500)


def test_ops_are_named_with_their_types(int8_content):
    kinds = collections.Counter(map(str, ops.read_typed_ops(int8_content)))
    assert kinds["DEQUANTIZE uint8->float32"] == kinds["QUANTIZE float32->int8"] == 1
    assert kinds["FULLY_CONNECTED float32"] == kinds["SOFTMAX float32"] == 1
    assert kinds["DEQUANTIZE int8->float32"] == 2  # the last layer's input, and its weights
    assert kinds["SUB float32"] == 1
    assert kinds["CONV_2D int8"] > 5
    assert [op.name for op in ops.read_typed_ops(int8_content)] == [
        op.name for op in rewrite.read_ops(int8_content)
    ]
