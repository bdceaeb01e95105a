import tracemalloc

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from keras_effnet.evaluation.outcomes import OutcomeRecorder, ScoreKind

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (300, 12)).astype(np.float32)
LABELS = np.where(RANDOM.random(300) < 0.6, LOGITS.argmax(1), RANDOM.integers(0, 12, 300))


def record(scores, labels, activation, batch=64, **options):
    recorder = OutcomeRecorder(ScoreKind(scores.shape[1], activation, **options))
    for start in range(0, len(scores), batch):
        recorder.add(scores[start : start + batch], labels[start : start + batch])
    return recorder.outcomes()


@pytest.mark.parametrize("activation", ["logits", "softmax"])
def test_loss_and_top_k_equal_scikit_learns(activation):
    probabilities = special.softmax(LOGITS, -1)
    outcomes = record(LOGITS if activation == "logits" else probabilities, LABELS, activation)
    want = metrics.log_loss(LABELS, probabilities, labels=range(12))
    assert outcomes.loss.mean() == pytest.approx(want, abs=1e-6)
    for k in (1, 3, 5):
        want = metrics.top_k_accuracy_score(LABELS, probabilities, k=k, labels=range(12))
        assert (outcomes.rank < k).mean() == pytest.approx(want, abs=1e-12)
    np.testing.assert_array_equal(outcomes.predictions, LOGITS.argmax(1))
    np.testing.assert_allclose(outcomes.confidence, probabilities.max(1), atol=1e-6)


def test_a_probability_of_zero_has_scikit_learns_loss():
    scores = np.array([[1, 0], [0.5, 0.5]], np.float32)
    outcomes = record(scores, np.array([1, 0]), "softmax")
    want = metrics.log_loss([1, 0], scores, labels=[0, 1])
    assert outcomes.loss.mean() == pytest.approx(want, abs=1e-6)


def test_the_batches_do_not_matter():
    whole, parts = record(LOGITS, LABELS, "logits", 300), record(LOGITS, LABELS, "logits", 7)
    for name in ("loss", "rank", "best", "label_probability"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_little_is_kept_of_an_image_whatever_the_classes():
    recorder = OutcomeRecorder(ScoreKind(10_000, "logits"))
    scores, labels = np.zeros((20, 10_000), np.float32), np.zeros(20, int)
    recorder.add(scores, labels)  # allocates what is allocated once
    tracemalloc.start()
    for _ in range(10):
        recorder.add(scores, labels)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 200 < 1000  # bytes an image


def test_the_first_of_equal_scores_is_the_prediction():
    outcomes = record(np.array([[0.0, 4, 4, 4]] * 3, np.float32), np.array([1, 2, 3]), "logits")
    assert outcomes.predictions.tolist() == [1, 1, 1]
    assert outcomes.rank.tolist() == [0, 1, 2]


@pytest.mark.parametrize("activation", ["sigmoid", "logits"])
def test_one_unit_is_the_second_of_two_classes(activation):
    logit = np.array([[2.0], [-1.0], [0.5]], np.float32)
    scores = logit if activation == "logits" else special.expit(logit)
    outcomes = record(scores, np.array([1, 0, 0]), activation)
    assert outcomes.predictions.tolist() == [1, 0, 1]
    want = metrics.log_loss([1, 0, 0], special.expit(logit)[:, 0])
    assert outcomes.loss.mean() == pytest.approx(want, abs=1e-6)
    assert outcomes.margin[0] == pytest.approx(2 * special.expit(2) - 1, abs=1e-6)


def test_sigmoid_scores_have_the_mean_binary_cross_entropy():
    scores = special.expit(LOGITS)
    outcomes = record(scores, LABELS, "sigmoid")
    want = np.mean(
        [metrics.log_loss(c == LABELS, scores[:, c], labels=[False, True]) for c in range(12)]
    )
    assert outcomes.loss.mean() == pytest.approx(want, abs=1e-6)


def test_several_labels_count_as_right_if_any_is_best():
    labels = np.array([[0, 2], [1, -1], [2, 1]])
    scores = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.3, 0.4, 0.3]])
    outcomes = record(scores, labels, "softmax")
    assert outcomes.correct.tolist() == [True, False, True]
    assert outcomes.label_probability == pytest.approx([0.7, 0.3, 0.4])
    log = -np.log(scores)
    want = [(log[0, 0] + log[0, 2]) / 2, log[1, 1], (log[2, 2] + log[2, 1]) / 2]
    assert outcomes.loss == pytest.approx(want)
    np.testing.assert_allclose(outcomes.probabilities, scores, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "error"),
    [(np.array([[np.nan, 0]]), "NaN or Inf"), (np.zeros((1, 3)), r"shape \(1, 3\); expected")],
)
def test_scores_that_are_none_are_an_error(scores, error):
    with pytest.raises(ValueError, match=error):
        OutcomeRecorder(ScoreKind(2, "logits")).add(scores, np.array([0]))
