import dataclasses

import pytest

from tpu_train.phases import phases, ramp, show
from tpu_train.recipes import RECIPES

DIGITS = RECIPES["digits"]

FOUR = """\
phase          steps  image size  magnitude   mixup  dropout
    1            0-7          32       5.00    0.00     0.10
    2           8-15          42       6.67    0.07     0.17
    3          16-23          53       8.33    0.13     0.23
    4          24-31          64      10.00    0.20     0.30"""


def test_ramps_reach_both_ends():
    assert [ramp(5, 15, i, 3) for i in range(3)] == [5, 10, 15]
    assert ramp(5, 15, 0, 1) == 15


def test_phases_are_what_they_print():
    recipe = dataclasses.replace(
        DIGITS,
        **{
            "phases": 4,
            "epochs": 2,
            "batch_size": 8,
            "image_size_first": 32,
            "image_size_last": 64,
        },
        **{"magnitude_first": 5, "magnitude_last": 10, "mixup_last": 0.2, "mixup_first": 0.0},
        **{"dropout_first": 0.1, "dropout_last": 0.3},
    )
    assert show(phases(recipe, 128)) == FOUR


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("examples", [10, 1198, 50_000])
def test_phases_cover_every_step_once(count, examples):
    run = phases(dataclasses.replace(DIGITS, phases=count), examples)
    steps = [s for p in run for s in range(p.first_step, p.end_step)]
    assert steps == list(range(run[-1].end_step))
    assert all(p.end_step > p.first_step for p in run)
    assert (run[-1].image_size, run[-1].magnitude) == (
        DIGITS.image_size_last,
        DIGITS.magnitude_last,
    )


def test_the_paper_s_sizes_come_out_of_the_ramp():
    # Table 6 of arXiv 2104.00298: 128 to 300 (S) and to 380 (M, L) in four phases.
    assert [int(ramp(128, 300, i, 4)) for i in range(4)] == [128, 185, 242, 300]
    assert [int(ramp(128, 380, i, 4)) for i in range(4)] == [128, 212, 296, 380]
