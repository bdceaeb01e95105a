import types

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.input_pipeline.targets import (
    class_weights,
    oversample,
    soft_targets,
    tempered_scores,
)


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


def labeled(labels, classes=("a", "b", "c", "d")):
    return types.SimpleNamespace(name="data", labels=np.array(labels, np.int32), classes=classes)


def test_balanced_class_weights_are_inverse_to_frequencies():
    weights = class_weights("balanced", labeled([[0, 1], [0, -1], [0, -1], [2, -1]]))
    assert weights.dtype == np.float32
    # A class without images, here d, counts as one with one image.
    np.testing.assert_allclose(weights, [5 / 12, 5 / 4, 5 / 4, 5 / 4])
    balanced = class_weights("balanced", labeled(np.arange(6) % 3, ("a", "b", "c")))
    np.testing.assert_array_equal(balanced, [1, 1, 1])
    assert class_weights("none", labeled([0])) is None


@pytest.mark.parametrize("setting", ["b:2.5, d:0.1", '{"b": 2.5, "d": 0.1}'])
def test_class_weights_are_given_by_name_and_the_others_are_1(setting):
    np.testing.assert_allclose(class_weights(setting, labeled([0])), [1, 2.5, 1, 0.1])


def test_names_with_colons_and_commas_have_weights_as_json():
    source = labeled([0], ("a:b", "c,d"))
    np.testing.assert_allclose(class_weights('{"a:b": 2, "c,d": 3}', source), [2, 3])
    np.testing.assert_allclose(class_weights("a:b:2", source), [2, 1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("balance", "class_weights 'balance' cannot be read .*: give none, balanced"),
        ("a:two", "cannot be read"),
        ('{"a": ', "cannot be read"),
        ("cat:2", "data has no class 'cat'.* Its 4 classes are a, b, c, d"),
        ("a:0", "the weight of 'a' must be a positive number, got 0.0"),
        ('{"a": true}', "the weight of 'a' must be a positive number, got True"),
        ("a:nan", "the weight of 'a' must be a positive number"),
        ("a:inf", "the weight of 'a' must be a positive number"),
    ],
)
def test_bad_class_weights_are_one_error(setting, message):
    with pytest.raises(ValueError, match=message):
        class_weights(setting, labeled([0]))


def colors(labels):
    labels = np.asarray(labels)
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[..., 0] = np.arange(len(labels))[:, None, None]  # its index
    return from_arrays("colors", images, labels, "abc")


def test_oversampling_gives_every_class_as_many_images_as_the_largest():
    labels = [0] * 10 + [1] * 4 + [2]
    source = oversample(colors(labels), seed=0)
    assert np.bincount(source.labels).tolist() == [10, 10, 10]
    indices = [int(source.read(tf.constant(i))[0, 0, 0]) for i in range(source.examples)]
    assert [labels[i] for i in indices] == source.labels.tolist()
    copies = np.bincount(indices)
    assert copies[:10].tolist() == [1] * 10
    assert sorted(copies[10:]) == [2, 2, 3, 3, 10]
    assert oversample(colors(labels), seed=0).labels.tolist() == source.labels.tolist()
    of_seed = {
        tuple(
            int(oversample(colors(labels), seed=s).read(tf.constant(i))[0, 0, 0])
            for i in range(10, 20)
        )
        for s in range(6)
    }
    assert len(of_seed) > 1


def test_images_of_several_labels_are_repeated_as_the_rarest_requires():
    several = np.array([[0, -1]] * 6 + [[0, 1]] * 2, np.int32)
    source = colors([0] * 8)
    source = source.__class__(**{**vars(source), "labels": several, "classes": ("a", "b")})
    assert oversample(source, seed=0).labels[:, 1].tolist() == [-1] * 6 + [1] * 8


def test_scores_of_sigmoids_sum_to_1_as_targets_of_a_softmax_loss():
    scores = tf.constant([[0.3, 0.05, 0.05], [0.9, 0.8, 0.3]])
    targets = tempered_scores(scores, 1.0, loss="softmax")
    np.testing.assert_allclose(tf.reduce_sum(targets, -1), 1, atol=1e-6)
    np.testing.assert_allclose(targets[0], [0.75, 0.125, 0.125], atol=1e-6)
    np.testing.assert_array_equal(tempered_scores(scores, 1.0, loss="sigmoid"), scores)
