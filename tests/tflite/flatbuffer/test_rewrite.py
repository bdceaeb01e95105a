import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner, runtime, writer
from tflite import ai_edge_quantizer
from tflite.flatbuffer import rewrite


def test_uint8_input_gives_the_same_scores(float_content, images):
    content = rewrite.uint8_input(float_content)
    interpreter = runtime.interpreter(content)
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    assert interpreter.get_input_details()[0]["name"] == "serving_default_images:0"
    np.testing.assert_array_equal(
        runner.scores(content, images), runner.scores(float_content, images)
    )


def test_uint8_input_keeps_the_signature(float_content, images):
    signature = runtime.interpreter(rewrite.uint8_input(float_content)).get_signature_runner()
    want = runner.scores(float_content, images[:1])
    np.testing.assert_array_equal(signature(images=images[:1])["scores"], want)


def test_uint8_input_runs_accelerated(float_content):
    assert runtime.is_fully_accelerated(rewrite.uint8_input(float_content))


def test_uint8_input_twice_is_an_error(float_content):
    with pytest.raises(ValueError, match=r"\['UINT8'\].*one FLOAT32 input"):
        rewrite.uint8_input(rewrite.uint8_input(float_content))


def test_written_buffers_are_aligned(float_content, int8_content):
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(float_content))
    plain = bytes(tools.convert_object_to_bytearray(tree))
    assert ops.misaligned_buffers(plain) > 0  # written by LiteRT's Python tools
    assert ops.misaligned_buffers(float_content) == ops.misaligned_buffers(int8_content) == 0


def test_buffers_behind_the_flatbuffer_survive(float_content, images):
    """ai-edge-quantizer writes them so from 256 KiB up; a plain read and write loses them."""
    tools = runtime.flatbuffer_tools()
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

    content = rewrite.uint8_input(packed)
    np.testing.assert_array_equal(
        runner.scores(content, images),
        runner.scores(float_content, images),
    )


@pytest.fixture
def int8_ends(float_content, images):
    """An int8 .tflite with an int8 input and output."""
    ranges = tflite.calibrate(float_content, images)
    return ai_edge_quantizer.static(float_content, ranges, [], float_ends=False)


def test_uint8_input_output_gives_the_same_bits(int8_ends, images):
    content = rewrite.uint8_input_output(int8_ends)
    inner, outer = runtime.interpreter(int8_ends), runtime.interpreter(content)
    feed, fetch = outer.get_input_details()[0], outer.get_output_details()[0]
    assert feed["dtype"] == fetch["dtype"] == np.uint8
    for image in images[:4]:
        inner.set_tensor(
            inner.get_input_details()[0]["index"], (image[None].astype(int) - 128).astype(np.int8)
        )
        inner.invoke()
        outer.set_tensor(feed["index"], image[None])
        outer.invoke()
        want = inner.get_tensor(inner.get_output_details()[0]["index"]).astype(int) + 128
        np.testing.assert_array_equal(outer.get_tensor(fetch["index"]), want)


def test_uint8_input_output_keeps_scale_and_shifts_zero_point(int8_ends):
    for (a, scale, zero), (b, same, more) in zip(
        ops.quantization(int8_ends), ops.quantization(rewrite.uint8_input_output(int8_ends))
    ):
        assert (a, b, scale) == ("INT8", "UINT8", same)
        assert more == zero + 128
    assert ops.quantization(rewrite.uint8_input_output(int8_ends))[0] == ("UINT8", 1.0, 0)


def test_uint8_input_output_keeps_signature_and_names(int8_ends, images):
    content = rewrite.uint8_input_output(int8_ends)
    before, after = runtime.interpreter(int8_ends), runtime.interpreter(content)
    assert before.get_signature_list() == after.get_signature_list()
    for details in ("get_input_details", "get_output_details"):
        assert getattr(before, details)()[0]["name"] == getattr(after, details)()[0]["name"]
    scores = after.get_signature_runner()(images=images[:1])["scores"]
    assert scores.dtype == np.uint8
    assert ops.misaligned_buffers(content) == 0


def test_uint8_input_output_takes_int8_models_only(int8_ends, float_content):
    for content in (rewrite.uint8_input_output(int8_ends), float_content):
        with pytest.raises(ValueError, match=r"takes one INT8 input and one INT8 output"):
            rewrite.uint8_input_output(content)


def test_short_names_are_unique_layer_names(float_content):
    names = [op.output for op in tflite.read_ops(float_content)]
    assert len(set(names)) == len(names)
    assert not any(";" in name or name.startswith("tiny") for name in names)
    assert any(name.startswith("block2a_") for name in names)
    assert ops.activations(float_content).keys() >= {"serving_default_images:0", names[-1]}


def test_short_names_keep_scores_and_signature(float_content, images):
    again = rewrite.short_names(float_content)
    np.testing.assert_array_equal(
        runner.scores(again, images[:2]),
        runner.scores(float_content, images[:2]),
    )
    signature = runtime.interpreter(again).get_signature_runner()
    assert signature(images=images[:1].astype(np.float32))["scores"].shape == (1, 10)


def test_equal_zero_points_are_written_once(int8_content, images):
    """Every reader gets them, and nothing else changes."""
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(int8_content))
    plain = bytes(tools.convert_object_to_bytearray(tree))
    shared = writer.write(tools.read_model_from_bytearray(bytearray(int8_content)))
    assert len(shared) < len(plain) - 5000
    a, b = (tools.read_model_from_bytearray(c).subgraphs[0].tensors for c in (plain, shared))
    for one, other in zip(a, b):
        for field in ("scale", "zeroPoint", "quantizedDimension"):
            x, y = (getattr(tensor.quantization, field, None) for tensor in (one, other))
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(
        runner.scores(shared, images[:4]),
        runner.scores(plain, images[:4]),
    )
