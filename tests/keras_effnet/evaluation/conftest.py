import numpy as np
import pytest

from keras_effnet.evaluation.outcomes import OutcomeRecorder, ScoreKind
from keras_effnet.evaluation.summary import evaluate_outcomes


@pytest.fixture
def evaluation():
    """evaluation(classes=3, images=40, several=False): of random scores, mostly right."""

    def evaluation(classes=3, images=40, *, several=False):
        random = np.random.default_rng(classes)
        labels = np.arange(images) % classes
        scores = random.random((images, classes)) + 0.6 * np.eye(classes)[labels]
        if several:
            scores /= scores.max()
            labels = np.stack([labels, np.where(labels > 0, 0, -1)], 1)
        else:
            scores /= scores.sum(1, keepdims=True)
        recorder = OutcomeRecorder(ScoreKind(classes, "sigmoid" if several else "softmax"))
        recorder.add(scores, labels)
        names = ["<cat> & dog", *(f"class {c}" for c in range(1, classes))]
        identifiers = [f"photos/{i}.jpg" for i in range(images)]
        return evaluate_outcomes(recorder.outcomes(), recorder.kind, names, identifiers)

    return evaluation
