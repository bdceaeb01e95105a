"""Batches of labeled and pseudo-labeled images. Shards: tests/tpu_train/noisy_student."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.batches import training_batches, unlabeled_of_steps
from tpu_train.input_pipeline.targets import soft_targets, tempered_scores, training_targets
from tpu_train.recipes.phases import make_phases

pytestmark = pytest.mark.every_stack


def settings(tiny_recipe, **changes):
    recipe = dataclasses.replace(
        tiny_recipe, **{"unlabeled_ratio": 2.0, "augment": "none", **changes}
    )
    return recipe, make_phases(recipe, 24)[0]


def batches(source, recipe, phase, first, end, **kwargs):
    kwargs = {"replicas": 1, **kwargs}
    data = training_batches(source, recipe, phase, first_step=first, end_step=end, **kwargs)
    return [{k: v.numpy() for k, v in b.items()} for b in data]


def test_batches_draw_from_both_sources_in_a_fixed_ratio(pseudo_labeled, tiny_recipe):
    recipe, phase = settings(tiny_recipe)
    steps = batches(pseudo_labeled, recipe, phase, 0, 5)
    is_pseudo = np.stack([b["scores"].any(1) for b in steps])
    assert is_pseudo.shape == (5, 24)
    assert (is_pseudo.sum(1) == 16).all()
    scores = np.concatenate([b["scores"] for b in steps])[is_pseudo.ravel()]
    labels = np.concatenate([b["label"] for b in steps])
    np.testing.assert_array_equal(labels[is_pseudo.ravel()], scores.argmax(1))
    numbers = np.unique(scores.round(6), axis=0, return_inverse=True)[1].ravel()
    epochs = numbers.reshape(8, 10)  # 80 draws of 10 images: each once in an epoch
    assert (np.sort(epochs, 1) == np.arange(10)).all()
    assert len(np.unique(epochs, axis=0)) > 1
    order = [
        tuple(pseudo_labeled.unlabeled.read_scored(i)[1].numpy().round(6))
        for i in unlabeled_of_steps(pseudo_labeled.unlabeled, recipe, phase, 0, 5)
    ]
    assert order == [tuple(row) for row in scores.round(6)]


def test_hosts_replicas_and_later_steps_have_the_same_batches(pseudo_labeled, tiny_recipe):
    recipe, phase = settings(tiny_recipe)
    expected = batches(pseudo_labeled, recipe, phase, 0, 3)
    hosts = [
        batches(pseudo_labeled, recipe, phase, 0, 3, replicas=2, host=h, hosts=2) for h in range(2)
    ]
    later = batches(pseudo_labeled, recipe, phase, 1, 3)
    for step, batch in enumerate(expected):
        for key, values in batch.items():
            joined = np.concatenate([hosts[0][step][key], hosts[1][step][key]])
            np.testing.assert_array_equal(joined, values)
            if step:
                np.testing.assert_array_equal(later[step - 1][key], values)


def test_soft_targets_are_the_scores_and_hard_ones_the_best_class(pseudo_labeled, tiny_recipe):
    recipe, phase = settings(tiny_recipe)
    (batch,) = training_batches(pseudo_labeled, recipe, phase, first_step=0, end_step=1, replicas=1)
    is_pseudo = batch["scores"].numpy().any(1)
    labels = soft_targets(batch["label"], 4, smoothing=0.05, loss="softmax").numpy()
    soft = training_targets(batch, 4, recipe).numpy()
    scores = batch["scores"].numpy()[is_pseudo]  # their sum is 1 but for rounding
    np.testing.assert_allclose(soft[is_pseudo], scores, rtol=1e-6)
    np.testing.assert_array_equal(soft[~is_pseudo], labels[~is_pseudo])
    hard = training_targets(batch, 4, dataclasses.replace(recipe, pseudo_labels="hard")).numpy()
    np.testing.assert_array_equal(hard, labels)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_a_temperature_divides_the_logits(temperature):
    logits = tf.constant([[2.0, -1.0, 0.5], [0.1, 0.2, 3.0]])
    softened = tempered_scores(tf.nn.softmax(logits), temperature, loss="softmax")
    np.testing.assert_allclose(softened, tf.nn.softmax(logits / temperature), atol=1e-6)
    softened = tempered_scores(tf.sigmoid(logits), temperature, loss="sigmoid")
    np.testing.assert_allclose(softened, tf.sigmoid(logits / temperature), atol=1e-6)
