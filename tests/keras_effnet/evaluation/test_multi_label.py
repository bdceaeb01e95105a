import numpy as np
import pytest
from sklearn import metrics

from keras_effnet.evaluation.multi_label import label_metrics

RANDOM = np.random.default_rng(3)
TRUTH = RANDOM.random((250, 7)) < 0.3
TRUTH[:, 0] |= ~TRUTH.any(1)
TRUTH[:, 6] = False  # a class without images
PROBABILITIES = np.round(RANDOM.random((250, 7)), 2).astype(np.float32)  # with equal ones
LABELS = np.full((250, 7), -1)
for row, labels in enumerate(TRUTH):
    LABELS[row, : labels.sum()] = np.flatnonzero(labels)


def test_average_precision_and_f1_equal_scikit_learns():
    got = label_metrics(LABELS, PROBABILITIES)
    used = TRUTH[:, :6], PROBABILITIES[:, :6]
    want = metrics.average_precision_score(*used, average=None)
    np.testing.assert_allclose(got.average_precision[:6], want, atol=1e-6)
    assert np.isnan(got.average_precision[6])
    assert got.mean_average_precision == pytest.approx(want.mean(), abs=1e-6)
    above = used[1] >= 0.5
    want = metrics.precision_recall_fscore_support(used[0], above, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), want):
        np.testing.assert_allclose(getattr(got, name)[:6], values, atol=1e-6)
    all_above = PROBABILITIES >= 0.5
    assert got.micro()["f1"] == pytest.approx(metrics.f1_score(TRUTH, all_above, average="micro"))
    want = metrics.f1_score(*(used[0], above), average="macro")
    assert got.macro()["f1"] == pytest.approx(want)


def test_the_best_threshold_has_the_largest_f1():
    got = label_metrics(LABELS, PROBABILITIES)
    for c in (0, 3):
        f1 = [
            metrics.f1_score(TRUTH[:, c], PROBABILITIES[:, c] >= t)
            for t in np.unique(PROBABILITIES[:, c])
        ]
        assert got.best_f1[c] == pytest.approx(max(f1))
        above = PROBABILITIES[:, c] >= got.best_threshold[c]
        assert metrics.f1_score(TRUTH[:, c], above) == pytest.approx(max(f1))
