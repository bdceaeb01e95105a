import numpy as np
import pytest
from sklearn import metrics

from keras_effnet.evaluation.per_class import class_metrics, confusions, largest_confusions

RANDOM = np.random.default_rng(1)
LABELS = RANDOM.integers(0, 6, 400)
PREDICTIONS = np.where(RANDOM.random(400) < 0.7, LABELS, RANDOM.integers(0, 7, 400))


def test_precision_recall_and_f1_equal_scikit_learns():
    got = class_metrics(LABELS, PREDICTIONS, 9)
    want = metrics.precision_recall_fscore_support(
        LABELS, PREDICTIONS, labels=range(9), zero_division=np.nan
    )
    for name, values in zip(("precision", "recall", "f1"), want):
        np.testing.assert_allclose(getattr(got, name), values, atol=1e-12)
    np.testing.assert_array_equal(got.count, want[3])
    macro = metrics.precision_recall_fscore_support(
        LABELS, PREDICTIONS, labels=range(6), average="macro", zero_division=0
    )
    assert [got.macro()[k] for k in ("precision", "recall", "f1")] == pytest.approx(macro[:3])


def test_confusions_are_the_cells_of_scikit_learns_matrix():
    matrix = np.zeros((7, 7), int)
    for label, prediction, count in confusions(LABELS, PREDICTIONS):
        matrix[label, prediction] = count
    want = metrics.confusion_matrix(LABELS, PREDICTIONS, labels=range(7))
    np.testing.assert_array_equal(matrix, want)


def test_the_largest_confusions_are_off_the_diagonal():
    cells = np.array([[0, 0, 90], [0, 1, 3], [1, 0, 3], [1, 1, 5], [2, 0, 4]])
    count = np.array([93, 8, 4])
    got = largest_confusions(cells, count, 2).tolist()
    assert got == [[2, 0, 4], [1, 0, 3]]  # of equal ones, the larger share of the label's images
