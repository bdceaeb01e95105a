import numpy as np
import pytest

import tflite
from tflite import graph, litert


def test_census_counts_every_op(float_content):
    counts = graph.census(tflite.read_ops(float_content))
    assert counts["DEPTHWISE_CONV_2D"] == 2
    assert counts["SOFTMAX"] == 1
    assert sum(counts.values()) == len(tflite.read_ops(float_content))


def test_activations_are_what_depends_on_the_image(float_content):
    names = graph.activations(float_content)
    assert len(names) == len(tflite.read_ops(float_content)) + 1  # and the input


def test_uint8_input_gives_the_same_answers(float_content, images):
    content = graph.uint8_input(float_content)
    made = litert.interpreter(content)
    assert made.get_input_details()[0]["dtype"] == np.uint8
    assert made.get_input_details()[0]["name"] == "serving_default_images:0"
    np.testing.assert_array_equal(
        litert.scores(made, images), litert.scores(litert.interpreter(float_content), images)
    )


def test_uint8_input_keeps_the_signature(float_content, images):
    runner = litert.interpreter(graph.uint8_input(float_content)).get_signature_runner()
    want = litert.scores(litert.interpreter(float_content), images[:1])
    np.testing.assert_array_equal(runner(images=images[:1])["scores"], want)


def test_uint8_input_runs_accelerated(float_content):
    assert litert.is_fully_accelerated(graph.uint8_input(float_content))


def test_uint8_input_twice_is_an_error(float_content):
    with pytest.raises(ValueError, match=r"\['UINT8'\].*one FLOAT32 input"):
        graph.uint8_input(graph.uint8_input(float_content))


def test_written_buffers_are_aligned(float_content, int8_content):
    tools = litert.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(float_content))
    plain = bytes(tools.convert_object_to_bytearray(tree))
    assert graph.misaligned_buffers(plain) > 0  # the format's own writer
    assert graph.misaligned_buffers(float_content) == graph.misaligned_buffers(int8_content) == 0


def test_buffers_behind_the_flatbuffer_survive(float_content, images):
    """ai-edge-quantizer writes them so from 256 KiB up; a plain read and write loses them."""
    tools = graph.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(float_content)
    tail = b""
    sizes = {i: bytes(b.data) for i, b in enumerate(tree.buffers) if b.data is not None}
    for i in sizes:
        tree.buffers[i].data, tree.buffers[i].offset, tree.buffers[i].size = None, 1, 1
    start = len(tools.convert_object_to_bytearray(tree))
    start += -start % 16
    for i, data in sizes.items():
        tree.buffers[i].offset, tree.buffers[i].size = start + len(tail), len(data)
        tail += data + bytes(-len(data) % 16)
    head = bytes(tools.convert_object_to_bytearray(tree))
    packed = head + bytes(start - len(head)) + tail

    content = graph.uint8_input(packed)
    np.testing.assert_array_equal(
        litert.scores(litert.interpreter(content), images),
        litert.scores(litert.interpreter(float_content), images),
    )
