import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.recipes.table import RECIPES
from tpu_train.training.distribution import make_strategy
from tpu_train.training.evaluation import make_evaluation

pytestmark = pytest.mark.every_stack

CLASSES = 5
IMAGES = 23  # divisible by no batch size here
LABELS = np.arange(IMAGES) % CLASSES
RECIPE = dataclasses.replace(RECIPES["digits"], image_size_eval=8, batch_size=4)


def images(predictions):
    """Images for which :func:`reader` predicts these classes."""
    return np.tile(
        (np.asarray(predictions) * 50).astype(np.uint8)[:, None, None, None], (1, 8, 8, 3)
    )


def reader(offset=0, calls=None):
    """A classifier that predicts the center's brightness / 50 plus `offset`."""

    class Reader(keras.layers.Layer):
        def call(self, pixels, training=True):
            assert not training
            if calls is not None:
                calls.append(pixels.shape)
            brightness = tf.cast(tf.round(tf.cast(pixels[:, 4, 4, 0], tf.float32) / 50), tf.int32)
            return tf.one_hot((brightness + offset) % CLASSES, CLASSES)

    return Reader()


def source(predictions, labels=LABELS):
    return from_arrays("read", images(predictions), labels, "abcde")


def evaluated(models, data, device="cpu", **changes):
    strategy = make_strategy(device)
    return make_evaluation(strategy, models, data, dataclasses.replace(RECIPE, **changes))()


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 23, 64])
def test_every_image_counts_once_whatever_the_batch(batch_size, device):
    """17 of 23 are correct; the padding, copies of the first image, would be, too."""
    predictions = np.where(np.arange(IMAGES) < 17, LABELS, LABELS + 1)
    metrics = evaluated({"a": reader()}, source(predictions), device, batch_size=batch_size)
    wrong, right = np.log(4 + np.e), np.log(4 + np.e) - 1  # of one-hot logits
    assert metrics == {
        "a": pytest.approx(17 / 23, abs=1e-7),
        "loss_a": pytest.approx((17 * right + 6 * wrong) / 23, abs=1e-6),
    }


def test_all_models_get_the_same_batches_and_are_traced_once():
    calls = []
    evaluate = make_evaluation(
        make_strategy("cpu"),
        {"ema": reader(calls=calls), "non_ema": reader(1)},
        source(LABELS),
        RECIPE,
    )
    first = evaluate()
    assert first == evaluate()
    assert (first["ema"], first["non_ema"]) == (1, 0)
    assert calls == [(4, 8, 8, 3)]


def test_a_prediction_of_any_label_is_correct():
    several = np.stack([LABELS, np.where(LABELS < 2, LABELS + 1, -1)], 1).astype(np.int32)
    data = dataclasses.replace(source(LABELS), labels=several)
    accuracies = evaluated({"first": reader(), "second": reader(1), "third": reader(2)}, data)
    assert accuracies["first"] == 1
    assert accuracies["second"] == pytest.approx((LABELS < 2).mean())
    assert accuracies["third"] == 0


def test_top5_counts_the_five_best_classes():
    """The logits of 7 classes are 0 to 6: the label is among the best five unless it is 0 or 1."""

    class Ascending(keras.layers.Layer):
        def call(self, pixels, training=True):
            return tf.tile(tf.range(7.0)[None], [tf.shape(pixels)[0], 1])

    labels = np.arange(IMAGES) % 7
    data = from_arrays("seven", images(LABELS), labels, "abcdefg")
    metrics = evaluated({"a": Ascending()}, data, "cpu:2")
    assert metrics["top5_a"] == pytest.approx((labels >= 2).mean())
    assert metrics["a"] == pytest.approx((labels == 6).mean())
    losses = np.log(np.exp(np.arange(7)).sum()) - labels
    assert metrics["loss_a"] == pytest.approx(losses.mean(), abs=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_of_several_labels_is_the_training_loss(loss):
    several = np.stack([LABELS, np.where(LABELS < 2, LABELS + 1, -1)], 1).astype(np.int32)
    data = dataclasses.replace(source(LABELS), labels=several)
    metrics = evaluated({"a": reader()}, data, loss=loss, label_smoothing=0.1)
    logits = np.eye(CLASSES)[LABELS]
    hot = np.maximum(np.eye(CLASSES)[several[:, 0]], np.eye(CLASSES + 1)[several[:, 1], :CLASSES])
    hot[several[:, 1] < 0] = np.eye(CLASSES)[LABELS[several[:, 1] < 0]]
    if loss == "softmax":
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        want = -(hot / hot.sum(1, keepdims=True) * log).sum(1)
    else:
        want = (np.log1p(np.exp(logits)) - hot * logits).sum(1)
    assert metrics["loss_a"] == pytest.approx(want.mean(), abs=1e-5)


def test_images_are_cropped_as_the_recipe_says():
    """With 24 x 16 images whose border shows another class."""
    pixels = np.full((IMAGES, 24, 16, 3), 200, np.uint8)
    pixels[:, 8:16, 4:12] = 50  # the middle half of the shorter side
    data = from_arrays("framed", pixels, np.ones(IMAGES, int), "abcde")
    model = {"corner": _corner()}
    assert evaluated(model, data, crop_eval=0.5)["corner"] == 1
    assert evaluated(model, data, crop_eval=0.0)["corner"] == 0


def _corner():
    class Corner(keras.layers.Layer):
        def call(self, pixels, training=True):
            return tf.one_hot(tf.cast(pixels[:, 0, 0, 0], tf.int32) // 50, CLASSES)

    return Corner()
