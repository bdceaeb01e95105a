"""The weights do not depend on the number of devices; test_resume.py trains on two workers."""

import dataclasses

import keras
import numpy as np
import pytest

from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


@pytest.fixture
def recipe(tiny_recipe):
    """Mixup, CutMix, dropout, drop path, a short EMA, clipping, weight decay, two
    gradient-accumulation steps. Without RandAugment: test_batches.py shows that images do not
    depend on the number of replicas and hosts.
    """
    return dataclasses.replace(
        tiny_recipe,
        phases=1,
        epochs=4,  # 12 steps
        augment="none",
        optimizer="rmsprop",
        learning_rate=0.1,
        weight_decay_mode="l2",
        gradient_accumulation_first=2,
        gradient_accumulation_last=2,
        ema_decay=0.5,
        zero_init_classifier=False,
    )


@pytest.mark.slow
@pytest.mark.every_stack
def test_one_and_two_devices_give_the_same_weights(recipe, source, tmp_path):
    """Batch norm is computed over both devices."""
    one, two = (
        train(
            recipe,
            *(source, source),
            tmp_path / device.replace(":", ""),
            make_strategy(device),
            pages=False,
        )
        for device in ("cpu", "cpu:2")
    )
    models = (keras.saving.load_model(r.model_path, compile=False) for r in (one, two))
    for a, b in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(one.phases, two.phases):
        assert a.accuracy == b.accuracy
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
