import numpy as np
import pytest

from tflite.evaluation.output_error import correlation, output_errors, relative_errors

_OUTPUTS = (("a", (2,), slice(0, 2)), ("b", (1,), slice(2, 3)))


def test_errors_of_each_output():
    reference = np.array([[0, 2, 5], [4, 6, 5]], np.float32)
    a, b = output_errors(_OUTPUTS, reference, reference + np.array([1, 1, 0]))
    assert (a.name, a.shape, a.mean_absolute_error) == ("a", (2,), 1.0)
    assert a.standard_deviation == pytest.approx(np.std([0, 2, 4, 6]))
    assert a.correlation == pytest.approx(1)
    assert a.sqnr_db == pytest.approx(10 * np.log10(14))
    assert (b.mean_absolute_error, b.correlation, b.sqnr_db) == (0, None, None)  # constant, equal


def test_the_relative_error_of_an_image_is_1_at_the_distance_of_the_spread():
    reference = np.array([[-1, 1, 10], [-1, 1, 30]], np.float32)
    candidate = np.array([[-1, 1, 10], [0, 0, 40]], np.float32)
    np.testing.assert_allclose(relative_errors(_OUTPUTS, reference, candidate), [0, 1])


def test_correlation_has_a_sign():
    x = np.arange(5.0)
    assert correlation(x, -x) == pytest.approx(-1)
    assert correlation(x, 0 * x) is None
