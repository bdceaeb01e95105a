import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.recipes.phases import Phase, make_phases
from tpu_train.recipes.table import RECIPES
from tpu_train.training.lr_schedule import learning_rate

BASE = dataclasses.replace(
    RECIPES["digits"], learning_rate=0.016, batch_size=4096, warmup_epochs=5, decay_epochs=2.4
)
EXAMPLES = 100 * 4096  # 100 steps an epoch
TOTAL = 350 * EXAMPLES


def a_phase(first_step=0, first_example=0, batch_size=4096):
    return Phase(
        **{"number": 1, "first_step": first_step, "end_step": 10**9},
        **{"first_example": first_example, "batch_size": batch_size, "accumulation": 1},
        **{"image_size": 32, "magnitude": 0, "mixup": 0, "cutmix": 0},
        **{"dropout_rate": 0, "drop_path_rate": 0, "freeze": "none"},
    )


def test_a_phase_that_trains_other_layers_warms_up_again():
    recipe = dataclasses.replace(BASE, freeze="backbone,block2,none", phases=4, epochs=40)
    phases = make_phases(recipe, EXAMPLES)
    assert [p.warms_up for p in phases] == [False, True, True, False]
    second = phases[1]
    steps = [second.first_step + n for n in (0, 250, 500, 600)]  # 5 epochs of 100 steps
    plain = rates(recipe, steps, dataclasses.replace(second, warms_up=False))
    expected = [factor * rate for factor, rate in zip((0, 0.5, 1, 1), plain)]
    assert rates(recipe, steps, second) == pytest.approx(expected)


def rates(recipe, steps, phase=None, examples=EXAMPLES, total_examples=TOTAL):
    return [
        float(
            learning_rate(
                recipe,
                phase or a_phase(),
                tf.constant(step, tf.int64),
                examples=examples,
                total_examples=total_examples,
            )
        )
        for step in steps
    ]


def official(recipe, step, images, steps):
    """utils.WarmupLearningRateSchedule of google/automl efficientnetv2, in double precision."""
    peak, steps_per_epoch = (
        recipe.learning_rate * recipe.batch_size / 256,
        images / recipe.batch_size,
    )
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return peak * step / warmup_steps
    if recipe.learning_rate_schedule == "exponential":
        return peak * 0.97 ** (step // (recipe.decay_epochs * steps_per_epoch))
    if recipe.learning_rate_schedule == "cosine":
        return 0.5 * peak * (1 + math.cos(math.pi * step / steps))
    return peak


def test_warm_up_is_linear_from_zero_to_the_scaled_peak():
    rate = rates(
        dataclasses.replace(BASE, learning_rate_schedule="constant"), [0, 250, 500, 30_000]
    )
    np.testing.assert_allclose(rate, [0, 0.128, 0.256, 0.256], rtol=1e-6)


def test_exponential_is_a_staircase_counted_from_step_zero():
    rate = rates(
        dataclasses.replace(BASE, learning_rate_schedule="exponential"), [719, 720, 959, 960]
    )
    peak = 0.256
    np.testing.assert_allclose(
        rate, [peak * 0.97**2, peak * 0.97**3, peak * 0.97**3, peak * 0.97**4], rtol=1e-5
    )


def test_cosine_ends_at_zero():
    rate = rates(dataclasses.replace(BASE, learning_rate_schedule="cosine"), [17_500, 35_000])
    assert rate[0] == pytest.approx(0.128, rel=1e-5)
    assert rate[1] == pytest.approx(0, abs=1e-7)


def test_no_warm_up_starts_at_the_peak():
    recipe = dataclasses.replace(BASE, learning_rate_schedule="constant", warmup_epochs=0)
    assert rates(recipe, [0]) == pytest.approx([0.256])


@pytest.mark.parametrize(
    "name",
    [
        *("efficientnetv2-s-code", "efficientnetv2-s-21k-code", "efficientnetv2-s-21k-ft1k-code"),
        *("efficientnet-b0-code", "efficientnetv2-m-paper", "efficientnetv2-m-21k-ft1k-paper"),
    ],
)
def test_the_rate_equals_the_official_schedule(name):
    recipe, images = RECIPES[name], 1_256_144
    run = make_phases(recipe, images)
    steps = run[-1].end_step
    total_examples = run[-1].first_example + (steps - run[-1].first_step) * run[-1].batch_size
    for phase in run:
        asked = np.linspace(phase.first_step, phase.end_step - 1, 40).astype(int).tolist()
        rate = rates(recipe, asked, phase, images, total_examples)
        want = [official(recipe, step, images, steps) for step in asked]
        peak = recipe.learning_rate * recipe.batch_size / 256
        np.testing.assert_allclose(rate, want, rtol=1e-6, atol=1e-6 * peak)


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_the_same_step_of_a_later_phase_has_the_same_rate(schedule):
    recipe = dataclasses.replace(BASE, learning_rate_schedule=schedule)
    later = a_phase(first_step=240, first_example=240 * 4096)
    steps = [240, 241, 479, 480, 719, 720, 2400, 34_999]
    assert rates(recipe, steps, later) == rates(recipe, steps)


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_time_counts_images_and_the_peak_scales_with_the_batch(schedule):
    recipe = dataclasses.replace(BASE, learning_rate_schedule=schedule)
    smaller = a_phase(first_step=400, first_example=400 * 4096, batch_size=1024)
    for images in (400, 450, 501, 800, 20_000):  # times 4096
        step = 400 + (images - 400) * 4
        (rate,) = rates(recipe, [step], smaller)
        (full,) = rates(recipe, [images])
        assert rate == pytest.approx(full / 4, rel=1e-6)


def test_the_cosine_is_exact_after_a_hundred_thousand_steps():
    recipe = dataclasses.replace(BASE, learning_rate_schedule="cosine", warmup_epochs=0)
    full = {"examples": EXAMPLES, "total_examples": 200_000 * 4096}
    phase = a_phase(first_step=100_000, first_example=100_000 * 4096)
    a, b = rates(recipe, [100_000, 100_010], phase, **full)
    slope = 0.5 * 0.256 * math.pi / 200_000  # of the cosine, half way
    assert (a - b) / 10 == pytest.approx(slope, rel=0.01)


def test_the_staircase_is_exact_after_a_hundred_thousand_steps():
    recipe = dataclasses.replace(BASE, learning_rate_schedule="exponential")
    phase = a_phase(first_step=100_000, first_example=100_000 * 4096)
    step = 240 * 420
    before, at = rates(recipe, [step - 1, step], phase)
    assert at / before == pytest.approx(0.97, rel=1e-5)


def test_the_rate_traces_with_an_int64_step():
    phase = a_phase()

    @tf.function
    def traced(step):
        return learning_rate(BASE, phase, step, examples=EXAMPLES, total_examples=TOTAL)

    assert traced(tf.constant(250, tf.int64)).dtype == tf.float32
    assert float(traced(tf.constant(250, tf.int64))) == pytest.approx(0.128)
