import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from keras_effnet.evaluation.calibration import calibrate

RANDOM = np.random.default_rng(2)


def test_the_bins_equal_scikit_learns_calibration_curve():
    confidence = np.append(RANDOM.random(500), [0, 1, 1 / 15, 0.2])
    correct = RANDOM.random(504) < confidence
    got = calibrate(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    used = got.count > 0
    np.testing.assert_allclose(got.accuracy[used], accuracy, atol=1e-12)
    np.testing.assert_allclose(got.confidence[used], mean, atol=1e-12)
    assert got.count.sum() == 504


def test_calibrated_predictions_have_a_small_error():
    confidence = RANDOM.random(100_000)
    assert calibrate(confidence, RANDOM.random(100_000) < confidence).ece < 0.01


def test_the_error_of_certain_predictions_is_one_minus_accuracy():
    got = calibrate(np.ones(10), np.arange(10) < 7)
    assert got.ece == pytest.approx(0.3)
    assert got.overconfidence == pytest.approx(0.3)
