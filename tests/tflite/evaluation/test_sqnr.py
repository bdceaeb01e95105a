import numpy as np
import pytest

import tflite
from keras_effnet.litert import classifier, runtime, writer
from tflite.evaluation import sqnr

_OPEN = classifier.open_classifier


def _renamed(content, first=0):
    """The same file with meaningless tensor names."""
    tree = runtime.flatbuffer_tools().read_model_from_bytearray(content)
    for index, tensor in enumerate(tree.subgraphs[0].tensors, first):
        tensor.name = f"t{index}".encode()
    return writer.write(tree)


def test_a_file_against_itself_has_the_maximum_sqnr(float_content, images):
    rows = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(float_content), images[:2])
    assert {tensor.sqnr_db for block in rows for tensor in block.tensors} == {120.0}


def test_blocks_are_in_execution_order(float_content, int8_content, images):
    rows = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(int8_content), images[:4])
    names = [block.name for block in rows]
    assert names == ["input", "stem", "block1a", "block2a", "block2b", "top", "head"]
    for block in rows[1:]:
        assert 5 < block.worst.sqnr_db <= block.sqnr_db < 60
    assert rows[0].sqnr_db > 100  # pixels are normalized in float32
    assert not any(tensor.rescaled for block in rows for tensor in block.tensors)


def test_sqnr_of_the_scores_is_signal_power_over_error_power(float_content, int8_content, images):
    first, second = _OPEN(float_content), _OPEN(int8_content)
    rows = sqnr.sqnr_by_block(first, second, images)
    x, y = (classifier.scores(model, images).astype(float) for model in (first, second))
    want = np.median(10 * np.log10((x**2).sum(1) / ((x - y) ** 2).sum(1)))
    assert rows[-1].sqnr_db == pytest.approx(want, abs=1e-3)


def test_tensors_without_common_names_are_matched_by_position(float_content, int8_content, images):
    first, second = _OPEN(float_content), _OPEN(int8_content)
    want = sqnr.sqnr_by_block(first, second, images[:2])
    got = sqnr.sqnr_by_block(first, _OPEN(_renamed(int8_content)), images[:2])
    assert got == want


def test_unknown_names_are_grouped_by_position(float_content, int8_content, images):
    nameless = [_OPEN(_renamed(c, n)) for c, n in ((float_content, 0), (int8_content, 5000))]
    rows = sqnr.sqnr_by_block(*nameless, images[:2])
    assert 8 <= len(rows) <= 16
    assert rows[0].name.startswith("ops 1-")
    named = sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(int8_content), images[:2])
    assert rows[-1].sqnr_db == named[-1].sqnr_db


def test_different_graphs_have_no_blocks(float_content, tiny, build, images):
    other = tflite.export_float32(build(tiny, input_shape=(40, 40, 3)))
    assert sqnr.sqnr_by_block(_OPEN(float_content), _OPEN(other), images[:1]) == ()


def _moments(x, y):
    return (x * x).sum(0), (x * y).sum(0), (y * y).sum(0)


def test_rescaled_channels_are_scaled_back():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 16))
    scales = rng.lognormal(0, 1, 16)
    factors = sqnr._factors(*_moments(x, x * scales + rng.normal(0, 0.01, x.shape) * scales))
    np.testing.assert_allclose(factors, 1 / scales, rtol=1e-2)


def test_errors_are_not_detected_as_rescaling():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 16))
    assert sqnr._factors(*_moments(x, 1.6 * x)) is None  # one factor for all channels is an error
    noisy = x * 0.1 + rng.normal(0, 1, x.shape) * rng.lognormal(0, 1, 16)
    assert sqnr._factors(*_moments(x, noisy)) is None
