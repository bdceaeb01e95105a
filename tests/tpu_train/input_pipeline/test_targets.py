import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.targets import soft_targets


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("softmax", 0.0, [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ("sigmoid", 0.0, [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ("softmax", 0.2, [[0.45, 0.05, 0.45, 0.05], [0.05, 0.85, 0.05, 0.05], [0.05] * 4]),
        ("sigmoid", 0.2, [[0.9, 0.1, 0.9, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1] * 4]),
    ],
)
def test_several_labels_share_softmax_and_not_sigmoid(loss, smoothing, expected):
    options = {"smoothing": smoothing, "loss": loss}
    labels = tf.constant([[0, 2, -1], [1, -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(soft_targets(labels, 4, **options), expected, atol=1e-7)
    one = soft_targets(tf.constant([1]), 4, **options)  # one label per image: the same row
    np.testing.assert_allclose(one, expected[1:2], atol=1e-7)
    twice = soft_targets(tf.constant([[1, 1, -1]]), 4, **options)
    np.testing.assert_allclose(twice, expected[1:2], atol=1e-7)
