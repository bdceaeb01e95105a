import numpy as np
from scipy import special

from keras_effnet.evaluation.probabilities import log_probabilities


def test_logits_and_their_softmax_give_equal_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (5, 7))
    log = log_probabilities(logits, "logits")
    np.testing.assert_allclose(log, special.log_softmax(logits, -1))
    np.testing.assert_allclose(
        log, log_probabilities(special.softmax(logits, -1), "softmax"), atol=1e-6
    )
