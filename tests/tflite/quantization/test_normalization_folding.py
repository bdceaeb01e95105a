import numpy as np
import pytest

import tflite
from keras_effnet.litert import runner
from tflite.flatbuffer.graph import Graph
from tflite.quantization import normalization_folding
from tflite.quantization.normalization_folding import fold_normalization


def _difference(before, after, images):
    return np.abs(runner.scores(before, images) - runner.scores(after, images)).max()


@pytest.mark.parametrize("border", ["constant", "subtract"])
def test_folding_keeps_the_scores_at_even_sizes(trained_v1, photos, border):
    changed = fold_normalization(trained_v1, border=border)
    assert _difference(trained_v1, changed, photos[:8]) < 1e-4
    names = [op.name for op in tflite.read_ops(changed)]
    first = names[: names.index("CONV_2D")]
    assert first == {"constant": ["CONCATENATION"] * 2, "subtract": ["SUB"]}[border]


@pytest.mark.parametrize("border", ["constant", "subtract"])
def test_folding_keeps_the_scores_at_odd_sizes(trained_odd, border):
    """A stride of 2 pads odd sizes on all four sides, even sizes only at the end."""
    content, photos = trained_odd
    changed = fold_normalization(content, border=border)
    assert _difference(content, changed, photos) < 1e-4


def test_folding_supports_mean_and_std_per_channel(trained_v1):
    """The border has the color that is normalized to 0."""
    graph = Graph(fold_normalization(trained_v1))
    edges = [
        graph.constant(tensor)
        for op in graph.operations
        if op.name == "CONCATENATION"
        for tensor in op.inputs
        if graph.is_constant(tensor)
    ]
    assert edges
    for edge in edges:
        want = np.broadcast_to([123.675, 116.28, 103.53], edge.shape)
        np.testing.assert_allclose(edge, want, rtol=1e-5)


@pytest.mark.parametrize("border", ["constant", "subtract"])
def test_folding_supports_scalar_mean_and_std(trained_v1, photos, border):
    graph = Graph(trained_v1)
    subtract, multiply = graph.operations[:2]
    for op, value in ((subtract, 127.0), (multiply, 1 / 128)):
        old = op.inputs[1]
        graph.rewire(op, old, graph.add_constant("one", np.array(value, np.float32)))
    content = graph.content()
    changed = fold_normalization(content, border=border)
    assert _difference(content, changed, photos[:8]) < 1e-4
    assert (
        tflite.read_ops(changed)[0].name == {"constant": "CONCATENATION", "subtract": "SUB"}[border]
    )
    assert "MUL" not in [op.name for op in tflite.read_ops(changed)[:3]]


def test_mean_of_zero_needs_no_border(trained_v1, photos):
    graph = Graph(trained_v1)
    subtract = graph.operations[0]
    graph.set_constant(subtract.inputs[1], np.zeros(graph.shape(subtract.inputs[1])))
    content = graph.content()
    changed = fold_normalization(content, images=photos[:4])
    assert [op.name for op in tflite.read_ops(changed)] == [
        op.name for op in tflite.read_ops(content)
    ][2:]


def test_networks_that_start_differently_are_not_changed(trained_v1, photos):
    folded = fold_normalization(trained_v1)
    assert fold_normalization(folded) is folded

    graph = Graph(trained_v1)  # a sum of two images
    last = graph.operations[1]
    again = graph.add_tensor("twice", graph.shape(last.output))
    options, kind = graph.options("AddOptions")
    stem = graph.operations[2]
    graph.insert(stem, "ADD", (last.output, last.output), again, options, kind)
    graph.rewire(stem, last.output, again)
    content = graph.content()
    assert fold_normalization(content, images=photos[:2]) is content


def test_normalization_with_two_readers_is_not_folded(trained_v1):
    """The second reader still needs its values."""
    graph = Graph(trained_v1)
    normalized = graph.operations[1].output
    beside = graph.add_tensor("beside", graph.shape(normalized))
    graph.insert(graph.operations[3], "LOGISTIC", (normalized,), beside)
    content = graph.content()
    assert fold_normalization(content) is content


def test_folding_that_changes_scores_is_an_error(trained_v1, photos, monkeypatch):
    """Without the border."""
    monkeypatch.setattr(normalization_folding, "padding", lambda *_: ((0, 0), (0, 0)))
    with pytest.raises(tflite.ConversionError, match=r"folding the normalization changes"):
        fold_normalization(trained_v1, images=photos[:4])
