import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.evaluation import classifier, sqnr
from tflite.flatbuffer import rewrite

_OPEN = classifier.open_classifier


def _renamed(content, first=0):
    """The same file with names that say nothing."""
    tree = litert.flatbuffer_tools().read_model_from_bytearray(content)
    for index, tensor in enumerate(tree.subgraphs[0].tensors, first):
        tensor.name = f"t{index}".encode()
    return rewrite.write(tree)


def test_a_file_has_no_noise_against_itself(float_content, images):
    rows = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(float_content), images[:2])
    assert {tensor.sqnr_db for block in rows for tensor in block.tensors} == {120.0}


def test_blocks_come_in_the_graphs_order(float_content, int8_content, images):
    rows = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(int8_content), images[:4])
    names = [block.name for block in rows]
    assert names == ["input", "stem", "block1a", "block2a", "block2b", "top", "head"]
    for block in rows[1:]:
        assert 5 < block.worst.sqnr_db <= block.sqnr_db < 60
    assert rows[0].sqnr_db > 100  # pixels are normalised in float
    assert not any(tensor.rescaled for block in rows for tensor in block.tensors)


def test_the_last_tensor_is_measured_as_by_hand(float_content, int8_content, images):
    first, second = _OPEN(float_content), _OPEN(int8_content)
    rows = sqnr.sqnr_by_block(first, second, images)
    x, y = (classifier.scores(model, images).astype(float) for model in (first, second))
    want = np.median(10 * np.log10((x**2).sum(1) / ((x - y) ** 2).sum(1)))
    assert rows[-1].sqnr_db == pytest.approx(want, abs=1e-3)


def test_names_of_another_maker_are_matched_by_place(float_content, int8_content, images):
    first, second = _OPEN(float_content), _OPEN(int8_content)
    want = sqnr.sqnr_by_block(first, second, images[:2])
    got = sqnr.sqnr_by_block(first, _OPEN(_renamed(int8_content)), images[:2])
    assert got == want


def test_names_that_say_nothing_are_grouped_by_place(float_content, int8_content, images):
    nameless = [_OPEN(_renamed(c, n)) for c, n in ((float_content, 0), (int8_content, 5000))]
    rows = sqnr.sqnr_by_block(*nameless, images[:2])
    assert 8 <= len(rows) <= 16
    assert rows[0].name.startswith("ops 1-")
    named = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(int8_content), images[:2])
    assert rows[-1].sqnr_db == named[-1].sqnr_db


def test_different_networks_have_no_blocks_in_common(float_content, tiny, build, images):
    other = tflite.export_float32(build(tiny, input_shape=(40, 40, 3)))
    assert sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(other), images[:1]) == ()


def _moments(x, y):
    return (x * x).sum(0), (x * y).sum(0), (y * y).sum(0)


def test_channels_rescaled_on_purpose_are_brought_back():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 16))
    scales = rng.lognormal(0, 1, 16)
    made = sqnr._factors(*_moments(x, x * scales + rng.normal(0, 0.01, x.shape) * scales))
    np.testing.assert_allclose(made, 1 / scales, rtol=1e-2)


def test_errors_are_not_taken_for_a_rescaling():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 16))
    assert sqnr._factors(*_moments(x, 1.6 * x)) is None  # a gain of all channels is an error
    noisy = x * 0.1 + rng.normal(0, 1, x.shape) * rng.lognormal(0, 1, 16)
    assert sqnr._factors(*_moments(x, noisy)) is None
