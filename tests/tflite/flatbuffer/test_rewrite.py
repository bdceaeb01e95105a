import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer import rewrite


def test_census_counts_every_op(float_content):
    counts = rewrite.census(tflite.read_ops(float_content))
    assert counts["DEPTHWISE_CONV_2D"] == 2
    assert counts["SOFTMAX"] == 1
    assert sum(counts.values()) == len(tflite.read_ops(float_content))


def test_activations_are_what_depends_on_the_image(float_content):
    names = rewrite.activations(float_content)
    assert len(names) == len(tflite.read_ops(float_content)) + 1  # and the input


def test_uint8_input_gives_the_same_answers(float_content, images):
    content = rewrite.uint8_input(float_content)
    made = litert.interpreter(content)
    assert made.get_input_details()[0]["dtype"] == np.uint8
    assert made.get_input_details()[0]["name"] == "serving_default_images:0"
    np.testing.assert_array_equal(
        litert.scores(made, images), litert.scores(litert.interpreter(float_content), images)
    )


def test_uint8_input_keeps_the_signature(float_content, images):
    runner = litert.interpreter(rewrite.uint8_input(float_content)).get_signature_runner()
    want = litert.scores(litert.interpreter(float_content), images[:1])
    np.testing.assert_array_equal(runner(images=images[:1])["scores"], want)


def test_uint8_input_runs_accelerated(float_content):
    assert litert.is_fully_accelerated(rewrite.uint8_input(float_content))


def test_uint8_input_twice_is_an_error(float_content):
    with pytest.raises(ValueError, match=r"\['UINT8'\].*one FLOAT32 input"):
        rewrite.uint8_input(rewrite.uint8_input(float_content))


def test_written_buffers_are_aligned(float_content, int8_content):
    tools = litert.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(float_content))
    plain = bytes(tools.convert_object_to_bytearray(tree))
    assert rewrite.misaligned_buffers(plain) > 0  # the format's own writer
    assert (
        rewrite.misaligned_buffers(float_content) == rewrite.misaligned_buffers(int8_content) == 0
    )


def test_buffers_behind_the_flatbuffer_survive(float_content, images):
    """ai-edge-quantizer writes them so from 256 KiB up; a plain read and write loses them."""
    tools = rewrite.flatbuffer_tools()
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
        litert.scores(litert.interpreter(content), images),
        litert.scores(litert.interpreter(float_content), images),
    )


@pytest.fixture
def int8_ends(float_content, images):
    """An int8 .tflite with an int8 input and output."""
    found = tflite.calibrate(float_content, images)
    return litert.static(float_content, found, [], float_ends=False)


def test_uint8_ends_give_the_same_answers_to_the_bit(int8_ends, images):
    content = rewrite.uint8_ends(int8_ends)
    inner, outer = litert.interpreter(int8_ends), litert.interpreter(content)
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


def test_uint8_ends_mean_the_same_numbers(int8_ends):
    for (a, scale, zero), (b, same, more) in zip(
        rewrite.quantization(int8_ends), rewrite.quantization(rewrite.uint8_ends(int8_ends))
    ):
        assert (a, b, scale) == ("INT8", "UINT8", same)
        assert more == zero + 128
    assert rewrite.quantization(rewrite.uint8_ends(int8_ends))[0] == ("UINT8", 1.0, 0)


def test_uint8_ends_keep_the_signature_and_the_names(int8_ends, images):
    content = rewrite.uint8_ends(int8_ends)
    before, after = litert.interpreter(int8_ends), litert.interpreter(content)
    assert before.get_signature_list() == after.get_signature_list()
    for details in ("get_input_details", "get_output_details"):
        assert getattr(before, details)()[0]["name"] == getattr(after, details)()[0]["name"]
    made = after.get_signature_runner()(images=images[:1])["scores"]
    assert made.dtype == np.uint8
    assert rewrite.misaligned_buffers(content) == 0


def test_uint8_ends_twice_or_of_float_are_errors(int8_ends, float_content):
    for content in (rewrite.uint8_ends(int8_ends), float_content):
        with pytest.raises(ValueError, match=r"takes an INT8 input and output"):
            rewrite.uint8_ends(content)


def test_short_names_are_of_the_layers_alone_and_all_different(float_content):
    names = [op.output for op in tflite.read_ops(float_content)]
    assert len(set(names)) == len(names)
    assert not any(";" in name or name.startswith("tiny") for name in names)
    assert any(name.startswith("block2a_") for name in names)
    assert rewrite.activations(float_content).keys() >= {"serving_default_images:0", names[-1]}


def test_short_names_leave_answers_and_signature(float_content, images):
    again = rewrite.short_names(float_content)
    np.testing.assert_array_equal(
        litert.scores(litert.interpreter(again), images[:2]),
        litert.scores(litert.interpreter(float_content), images[:2]),
    )
    runner = litert.interpreter(again).get_signature_runner()
    assert runner(images=images[:1].astype(np.float32))["scores"].shape == (1, 10)


def test_biases_are_found_where_they_stand(int8_content):
    """What is written there is what the kernels add."""
    places = rewrite.biases(int8_content)
    assert len(places) > 10
    tools = rewrite.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(int8_content))
    tensors = tree.subgraphs[0].tensors
    for op in tree.subgraphs[0].operators:
        name = tensors[op.outputs[0]].name.decode()
        if name in places:
            start, scales = places[name]
            want = bytes(tree.buffers[tensors[op.inputs[2]].buffer].data)
            assert int8_content[start : start + len(want)] == want
            assert len(scales) == len(want) // 4


def test_a_file_ends_where_it_is_asked_to(int8_content, images):
    made = litert.interpreter(int8_content, keep_tensors=True)
    made.set_tensor(made.get_input_details()[0]["index"], images[:1])
    made.invoke()
    tensors = {d["name"]: d["index"] for d in made.get_tensor_details()}
    ops = tflite.read_ops(int8_content)
    for place in range(3, len(ops), 11):
        cut = rewrite.until(int8_content, ops[place].output)
        assert tflite.read_ops(cut) == ops[: place + 1]
        short = litert.interpreter(cut)
        assert short.get_output_details()[0]["name"] == ops[place].output
        short.set_tensor(short.get_input_details()[0]["index"], images[:1])
        short.invoke()
        np.testing.assert_array_equal(
            short.get_tensor(short.get_output_details()[0]["index"]),
            made.get_tensor(tensors[ops[place].output]),
        )


def test_a_file_cannot_end_where_nothing_is_written(int8_content):
    with pytest.raises(ValueError, match=r"no op of the \.tflite writes 'nowhere'"):
        rewrite.until(int8_content, "nowhere")


def test_zero_points_that_are_alike_are_written_once(int8_content, images):
    """Every reader finds them, and nothing else changes."""
    tools = rewrite.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(int8_content))
    plain = bytes(tools.convert_object_to_bytearray(tree))
    shared = rewrite.write(tools.read_model_from_bytearray(bytearray(int8_content)))
    assert len(shared) < len(plain) - 5000
    a, b = (tools.read_model_from_bytearray(c).subgraphs[0].tensors for c in (plain, shared))
    for one, other in zip(a, b):
        for field in ("scale", "zeroPoint", "quantizedDimension"):
            x, y = (getattr(tensor.quantization, field, None) for tensor in (one, other))
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(
        litert.scores(litert.interpreter(shared), images[:4]),
        litert.scores(litert.interpreter(plain), images[:4]),
    )
