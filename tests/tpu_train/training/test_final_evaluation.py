import dataclasses
import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.recipes.table import RECIPES
from tpu_train.training.distribution import make_strategy
from tpu_train.training.final_evaluation import score_source, write_pages
from tpu_train.training.recovery import TrainingError

CLASSES, IMAGES = 7, 23  # divisible by no batch size here
LABELS = np.arange(IMAGES) % CLASSES
RECIPE = dataclasses.replace(RECIPES["digits"], image_size_eval=8, batch_size=4)


class Pixel(keras.layers.Layer):
    """Logits that depend on the brightness of an image's center, which is its number."""

    def call(self, pixels, training=True):
        assert not training
        number = tf.cast(pixels[:, 4, 4, :1], tf.float32)
        return tf.sin(number * tf.range(1.0, CLASSES + 1)[None])


def source(labels=LABELS):
    pixels = np.tile(np.arange(IMAGES, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))
    return from_arrays("numbers", pixels, labels, "abcdefg")


def logits():
    return np.sin(np.arange(IMAGES, dtype=np.float32)[:, None] * np.arange(1, CLASSES + 1))


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
@pytest.mark.parametrize("batch_size", [4, 6, 64])
def test_every_image_is_scored_once_and_in_order(device, batch_size):
    recipe = dataclasses.replace(RECIPE, batch_size=batch_size)
    outcomes, kind = score_source(make_strategy(device), Pixel(), source(), recipe)
    assert kind.activation == "logits"
    np.testing.assert_array_equal(outcomes.labels, LABELS)
    np.testing.assert_array_equal(outcomes.predictions, logits().argmax(1))
    log = logits() - np.log(np.exp(logits()).sum(1, keepdims=True))
    np.testing.assert_allclose(outcomes.loss, -log[np.arange(IMAGES), LABELS], atol=1e-5)


def test_a_sigmoid_loss_and_several_labels_give_probabilities():
    labels = np.stack([LABELS, np.where(LABELS < 2, LABELS + 1, -1)], 1).astype(np.int32)
    data = dataclasses.replace(source(), labels=labels)
    recipe = dataclasses.replace(RECIPE, loss="sigmoid")
    outcomes, kind = score_source(make_strategy("cpu"), Pixel(), data, recipe)
    assert kind.activation == "sigmoid"
    np.testing.assert_allclose(outcomes.probabilities, 1 / (1 + np.exp(-logits())), atol=1e-6)


def test_scores_that_are_nan_end_the_run_with_advice(tmp_path):
    class Log(Pixel):
        def call(self, pixels, training=True):
            return tf.math.log(super().call(pixels, training))  # NaN below 0

    path = str(tmp_path / "model.keras")
    with pytest.raises(TrainingError, match=r"test images.*NaN or Inf.*lower --learning_rate"):
        write_pages(make_strategy("cpu"), Log(), RECIPE, {"test": source()}, path, writes=True)
    assert not list(tmp_path.iterdir())


def test_the_pages_of_both_splits_are_written(tmp_path):
    sources = {"evaluation": source(), "test": source(logits().argmax(1))}
    strategy = make_strategy("cpu")
    exported = tmp_path / "model.keras"
    exported.write_bytes(b"the model")
    evaluations = write_pages(strategy, Pixel(), RECIPE, sources, str(exported), writes=True)
    assert evaluations["test"].top1.value == 1
    for name in sources:
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["metrics"]["images"] == IMAGES
        assert record["model_sha256"] == hashlib.sha256(b"the model").hexdigest()
        assert record["metrics"]["top1"]["value"] == evaluations[name].top1.value
        assert (tmp_path / f"{name}.html").read_text().startswith("<!doctype html>")
    assert "data:image/png" in (tmp_path / "evaluation.html").read_text()


@pytest.mark.parametrize(
    ("start", "weights", "model", "initial"),
    [
        ("efficientnet-lite0", "imagenet-pypi", "efficientnet-lite0", "imagenet-pypi"),
        ("earlier/model.keras", "", "{exported}", "earlier/model.keras"),
    ],
)
def test_the_page_names_the_evaluated_model_not_the_one_before_the_run(
    tmp_path, start, weights, model, initial
):
    exported = tmp_path / "model.keras"
    exported.write_bytes(b"the model")
    recipe = dataclasses.replace(RECIPE, model=start, weights=weights)
    sources = {"evaluation": source()}
    write_pages(make_strategy("cpu"), Pixel(), recipe, sources, str(exported), writes=True)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    model = model.format(exported=exported)
    assert record["model"] == model
    assert record["facts"]["Model"] == f"{model}, EMA weights"
    assert record["facts"]["Initial weights"] == initial


def test_workers_that_do_not_write_only_take_part(tmp_path):
    sources = {"evaluation": source()}
    exported = str(tmp_path / "model.keras")
    write_pages(make_strategy("cpu"), Pixel(), RECIPE, sources, exported, writes=False)
    assert list(tmp_path.iterdir()) == []
