import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.recipes import RECIPES
from tpu_train.schedule import learning_rate

BASE = dataclasses.replace(
    RECIPES["digits"], learning_rate=0.016, batch_size=4096, warmup_epochs=5, decay_epochs=2.4
)
STEPS = {"steps_per_epoch": 100.0, "total_steps": 35_000}


def rates(recipe, steps):
    return [float(learning_rate(recipe, tf.constant(s, tf.int64), **STEPS)) for s in steps]


def test_warm_up_is_linear_from_zero_to_the_scaled_peak():
    got = rates(dataclasses.replace(BASE, schedule="constant"), [0, 250, 500, 30_000])
    np.testing.assert_allclose(got, [0, 0.128, 0.256, 0.256], rtol=1e-6)


def test_exponential_is_a_staircase_counted_from_step_zero():
    got = rates(dataclasses.replace(BASE, schedule="exponential"), [719, 720, 959, 960])
    peak = 0.256
    np.testing.assert_allclose(
        got, [peak * 0.97**2, peak * 0.97**3, peak * 0.97**3, peak * 0.97**4], rtol=1e-5
    )


def test_cosine_ends_at_zero():
    got = rates(dataclasses.replace(BASE, schedule="cosine"), [17_500, 35_000])
    assert got[0] == pytest.approx(0.128, rel=1e-5)
    assert got[1] == pytest.approx(0, abs=1e-7)


def test_no_warm_up_starts_at_the_peak():
    recipe = dataclasses.replace(BASE, schedule="constant", warmup_epochs=0)
    assert rates(recipe, [0]) == pytest.approx([0.256])
