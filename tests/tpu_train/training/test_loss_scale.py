"""Training in float16: the loss scale, and steps that overflow."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.tpu_train.training.steps import (
    BATCH,
    CLASSES,
    RECIPE,
    SIZE,
    batches,
    locals_of,
    network,
    norm_of,
    start,
)
from tpu_train.training import step

pytestmark = pytest.mark.every_stack

HALF = dataclasses.replace(RECIPE, precision="float16")


def linear(images):
    """A float16 model whose gradient is proportional to its images, and batches of images."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten(dtype="mixed_float16")(inputs)
    x = keras.layers.Dense(CLASSES, name="head", dtype="mixed_float16")(x)
    data = {
        "image": np.asarray(images, np.uint8)[..., None, None, None]
        * np.ones((1, 1, SIZE, SIZE, 3), np.uint8),
        "label": np.arange(BATCH)[None].repeat(len(images), 0).astype(np.int32) % CLASSES,
    }
    return keras.Model(inputs, x), data


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    """With pixels of 200 the scaled gradient exceeds float16's maximum of 65504."""
    model, data = linear([[1] * 8, [1] * 4 + [200] * 4, [1] * 8])
    trainer = start(model, data, HALF, devices="cpu:2", rate=1e-3)
    everything = (
        *trainer.state.weights,
        *trainer.state.ema_weights,
        *trainer.state.optimizer.slots,
    )
    assert np.isfinite(trainer.train()[2])
    assert trainer.state.loss_scale.numpy() == 2.0**15
    assert trainer.state.good_steps.numpy() == 1
    before = [locals_of(v, trainer.strategy) for v in everything]
    loss, _, norm = trainer.train()
    assert np.isfinite(loss)
    assert not np.isfinite(norm)
    for variable, old in zip(everything, before):
        np.testing.assert_array_equal(locals_of(variable, trainer.strategy), old)
    assert locals_of(trainer.state.loss_scale, trainer.strategy) == [2.0**14] * 2
    assert locals_of(trainer.state.good_steps, trainer.strategy) == [0] * 2
    trainer.train()
    for variable, old in zip(trainer.state.weights, before):
        new = locals_of(variable, trainer.strategy)
        np.testing.assert_array_equal(*new)
        assert not np.array_equal(new[0], old[0])


def test_the_loss_scale_grows_after_enough_good_steps(monkeypatch):
    monkeypatch.setattr(step, "_GROWTH_STEPS", 3)
    model, data = linear([[1] * 8])
    trainer = start(model, data, HALF, rate=1e-3)
    scales = []
    for _ in range(4):
        trainer.train()
        scales.append((trainer.state.loss_scale.numpy(), trainer.state.good_steps.numpy()))
    assert scales == [(2.0**15, 1), (2.0**15, 2), (2.0**16, 0), (2.0**16, 1)]


def test_the_loss_scale_does_not_fall_below_one():
    model, data = linear([[200] * 8])
    trainer = start(model, data, HALF, rate=1e-3)
    trainer.state.loss_scale.assign(1.0)
    trainer.net.get_layer("head").set_weights([np.full((108, 3), np.nan, "f4"), np.zeros(3, "f4")])
    trainer.train()
    assert trainer.state.loss_scale.numpy() == 1.0


def test_a_float16_step_is_close_to_a_float32_step():
    full, data = network(dropout=0), batches(1)
    half = network(dropout=0, dtype="mixed_float16")
    half.set_weights(full.get_weights())
    moves = []
    for model, recipe in ((full, RECIPE), (half, HALF)):
        trainer = start(model, data, recipe)
        trainer.train()
        moves.append(np.concatenate([w.ravel() for w in trainer.weights()]))
    before = np.concatenate([w.ravel() for w in full.get_weights()])
    assert norm_of([moves[0] - moves[1]]) < 0.02 * norm_of([moves[0] - before])
