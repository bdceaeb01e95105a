import dataclasses

import pytest

from tpu_train.recipes.phases import (
    Phase,
    batch_norm_warning,
    batch_size_error,
    checked_phases,
    make_phases,
    ramp,
    rows_of,
    show,
)
from tpu_train.recipes.table import RECIPES, find_recipe

DIGITS = RECIPES["digits"]
IMAGENET, IMAGENET_TRAIN = 1_281_167, 1_256_144  # all images; without the official code's minival
EXAMPLES = {  # of the data set that a recipe is for
    "21k": 12_720_275,
    "cifar10": 50_000,
    "transfer": 50_000,
    "digits": 1_437,
    "photos": 10_000,
    "finetune": 10_000,
}

FOUR = """\
phase           steps  batch  image size  magnitude  mixup  cutmix  dropout  drop path
    1            0-15      8          32       5.00   0.00    0.00    0.100      0.050
    2           16-31      8          42       6.67   0.07    0.10    0.167      0.050
    3           32-47      8          53       8.33   0.13    0.20    0.233      0.050
    4           48-63      8          64      10.00   0.20    0.30    0.300      0.050"""


def _examples(recipe):
    words = recipe.name.split("-")
    for word in words:
        if word in EXAMPLES and "ft1k" not in words:
            return EXAMPLES[word]
    return IMAGENET_TRAIN if "automl" in recipe.source else IMAGENET


def _sizes(recipe, examples=IMAGENET):
    return [p.image_size for p in make_phases(recipe, examples)]


def test_ramps_reach_both_ends():
    assert [ramp(5, 15, i, 3) for i in range(3)] == [5, 10, 15]
    assert ramp(5, 15, 0, 1) == 15


def test_a_constant_ramp_is_exact():
    assert {ramp(0.2, 0.2, i, 4) for i in range(4)} == {0.2}


def test_phases_print_as_a_table():
    recipe = dataclasses.replace(
        DIGITS,
        **{"phases": 4, "epochs": 4, "batch_size": 8},
        **{"image_size_first": 32, "image_size_last": 64, "randaugment_magnitude_first": 5},
        **{
            "randaugment_magnitude_last": 10,
            "mixup_first": 0.0,
            "mixup_last": 0.2,
            "cutmix_last": 0.3,
        },
        **{"dropout_first": 0.1, "dropout_last": 0.3},
    )
    assert show(make_phases(recipe, 128)) == FOUR


def test_phases_match_the_golden_file(golden):
    texts = [
        f"{r.name}, {_examples(r)} images\n{show(make_phases(r, _examples(r)))}"
        for r in RECIPES.values()
    ]
    golden("phases.txt", "\n\n".join(texts))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 44])
@pytest.mark.parametrize("examples", [10, 1198, 50_000])
@pytest.mark.parametrize("name", ["digits", "efficientnetv2-m-code", "cifar10-random"])
def test_phases_cover_every_step_and_image_once(name, count, examples):
    run = make_phases(dataclasses.replace(RECIPES[name], phases=count), examples)
    assert len(run) == count
    assert run[0].first_step == run[0].first_example == 0
    for a, b in zip(run, run[1:]):
        assert b.first_step == a.end_step > a.first_step
        assert b.first_example == a.first_example + (a.end_step - a.first_step) * a.batch_size
    assert run[-1].end_step > run[-1].first_step


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_last_phase_has_the_last_values_of_the_recipe(count):
    for name in ("efficientnetv2-l-paper", "efficientnetv2-l-code"):
        recipe = dataclasses.replace(RECIPES[name], phases=count)
        last = make_phases(recipe, IMAGENET)[-1]
        assert last.image_size == recipe.image_size_last
        assert (last.magnitude, last.mixup, last.cutmix, last.dropout_rate) == (
            *(recipe.randaugment_magnitude_last, recipe.mixup_last),
            *(recipe.cutmix_last, recipe.dropout_last),
        )


# --- the paper's Algorithm 1 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sizes", "magnitudes", "mixups", "dropouts"),
    [  # Table 6 of arXiv 2104.00298 and the line between its ends, worked out by hand
        (
            *("s", [128, 185, 242, 300], [5, 25 / 3, 35 / 3, 15]),
            *([0] * 4, [0.1, 0.5 / 3, 0.7 / 3, 0.3]),
        ),
        (
            *("m", [128, 212, 296, 380], [5, 10, 15, 20]),
            *([0, 0.2 / 3, 0.4 / 3, 0.2], [0.1, 0.2, 0.3, 0.4]),
        ),
        (
            *("l", [128, 212, 296, 380], [5, 35 / 3, 55 / 3, 25]),
            *([0, 0.5 / 3, 1 / 3, 0.5], [0.1, 0.7 / 3, 1.1 / 3, 0.5]),
        ),
    ],
)
def test_paper_recipes_follow_algorithm_1(size, sizes, magnitudes, mixups, dropouts):
    run = make_phases(RECIPES[f"efficientnetv2-{size}-paper"], IMAGENET)
    assert [p.image_size for p in run] == sizes
    assert [p.magnitude for p in run] == pytest.approx(magnitudes, abs=1e-12)
    assert [p.mixup for p in run] == pytest.approx(mixups, abs=1e-12)
    assert [p.dropout_rate for p in run] == pytest.approx(dropouts, abs=1e-12)
    assert {p.cutmix for p in run} == {0}
    assert {p.drop_path_rate for p in run} == {0.2}
    # N/M steps each: 350 epochs of batches of 4096, about 87 epochs a phase
    total = 350 * IMAGENET / 4096
    assert [p.end_step for p in run] == [int(total * i / 4) for i in (1, 2, 3)] + [round(total)]


# --- the official code's formula ---------------------------------------------------------------


def _linspace(first, last, count):
    return [first + (last - first) * i / (count - 1) for i in range(count)]


def _official(train_size, ram, alpha, epochs, images, batch, stages=4, ibase=128):
    """The stages of main.py and main_tf2.py, reimplemented."""
    sizes, ends = [], []
    for stage in range(stages):
        ratio = float(stage + 1) / float(stages)
        sizes.append(int(ibase + (train_size - ibase) * ratio))
        ends.append(int(ratio * epochs))
    return {
        "sizes": sizes,
        "end_epochs": ends,
        "ram": _linspace(5, ram, stages),
        "alpha": _linspace(0, alpha, stages),
        "steps": epochs * images // batch,
    }


@pytest.mark.parametrize("images", [IMAGENET_TRAIN, IMAGENET])
@pytest.mark.parametrize(
    ("size", "train_size", "ram", "alpha", "sizes"),
    [  # effnetv2_configs.efficientnetv2_params, and the sizes as they come out of it
        ("s", 300, 10, 0.0, [171, 214, 257, 300]),
        ("m", 384, 15, 0.2, [192, 256, 320, 384]),
        ("l", 384, 20, 0.5, [192, 256, 320, 384]),
        ("xl", 384, 20, 0.5, [192, 256, 320, 384]),
        ("b0", 192, None, 0.0, [144, 160, 176, 192]),
        ("b1", 192, None, 0.0, [144, 160, 176, 192]),
        ("b2", 208, None, 0.0, [148, 168, 188, 208]),
        ("b3", 240, None, 0.0, [156, 184, 212, 240]),
    ],
)
def test_code_recipes_follow_the_official_formula(size, train_size, ram, alpha, sizes, images):
    recipe = RECIPES[f"efficientnetv2-{size}-code"]
    run = make_phases(recipe, images)
    want = _official(train_size, ram or 0, alpha, 350, images, 4096)
    assert [p.image_size for p in run] == want["sizes"] == sizes
    assert [p.mixup for p in run] == pytest.approx(want["alpha"], abs=1e-12)
    assert [p.cutmix for p in run] == pytest.approx(want["alpha"], abs=1e-12)
    if ram is None:  # AutoAugment has fixed magnitudes
        assert recipe.augment == "autoaugment"
    else:
        assert [p.magnitude for p in run] == pytest.approx(want["ram"], abs=1e-12)
    assert len({p.dropout_rate for p in run}) == 1
    assert want["end_epochs"] == [87, 175, 262, 350]
    steps_an_epoch = images / 4096
    for p, end in zip(run, want["end_epochs"]):  # integer epochs, rounded down to a step
        assert 0 <= end * steps_an_epoch - p.end_step < 1
    assert run[-1].end_step == want["steps"]


def test_the_official_run_has_107336_steps():
    # the log of google/automl#1024
    assert make_phases(RECIPES["efficientnetv2-s-code"], IMAGENET_TRAIN)[-1].end_step == 107_336


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multiple", "sizes"), [(16, [176, 208, 256, 304]), (32, [160, 224, 256, 288])]
)
def test_sizes_round_to_the_nearest_multiple(multiple, sizes):
    recipe = dataclasses.replace(RECIPES["efficientnetv2-s-code"], image_size_multiple=multiple)
    assert _sizes(recipe) == sizes
    assert all(
        abs(snapped - size) <= multiple / 2
        for snapped, size in zip(sizes, _sizes(RECIPES["efficientnetv2-s-code"]))
    )


def test_multiples_do_not_round_below_the_minimum_size():
    recipe = dataclasses.replace(
        DIGITS, image_size_multiple=24, image_size_first=32, image_size_last=33
    )
    assert set(_sizes(recipe)) == {48}


def test_random_sizes_are_a_function_of_the_seed():
    recipe = RECIPES["efficientnetv2-s-random"]
    sizes = _sizes(recipe)
    assert sizes == _sizes(recipe)
    assert sizes != _sizes(dataclasses.replace(recipe, seed=1))
    assert len(set(sizes)) > 30  # of 44 phases
    # a longer run starts with the same sizes
    assert _sizes(dataclasses.replace(recipe, phases=60))[:44] == sizes


@pytest.mark.parametrize("seed", range(20))
def test_random_sizes_stay_within_their_range(seed):
    recipe = dataclasses.replace(RECIPES["efficientnetv2-s-random"], seed=seed)
    assert all(128 <= size <= 300 for size in _sizes(recipe))


def test_random_sizes_reach_both_ends():
    recipe = RECIPES["cifar10-random"]
    sizes = [
        size
        for seed in range(20)
        for size in _sizes(dataclasses.replace(recipe, seed=seed), 50_000)
    ]
    assert (min(sizes), max(sizes)) == (recipe.image_size_first, recipe.image_size_last)


def test_regularization_follows_random_sizes():
    recipe = RECIPES["efficientnetv2-s-random-adaptive"]
    for p in make_phases(recipe, IMAGENET):
        share = (p.image_size - 128) / (300 - 128)
        assert p.magnitude == pytest.approx(5 + share * 10)
        assert p.dropout_rate == pytest.approx(0.1 + share * 0.2)


# --- batches and steps -------------------------------------------------------------------------


def test_a_shrinking_batch_keeps_the_epochs():
    recipe = dataclasses.replace(
        RECIPES["efficientnetv2-s-paper"], batch_size_first=2048, batch_size=512, epochs=40
    )
    run = make_phases(recipe, IMAGENET)
    assert [p.batch_size for p in run] == [2048, 1536, 1024, 512]
    for i, p in enumerate(run):
        end = p.first_example + (p.end_step - p.first_step) * p.batch_size
        assert end == pytest.approx(10 * (i + 1) * IMAGENET, abs=2048)


def test_intermediate_batches_are_multiples_of_the_common_divisor():
    recipe = dataclasses.replace(DIGITS, phases=4, batch_size_first=96, batch_size=32)
    assert [p.batch_size for p in make_phases(recipe, 5000)] == [96, 64, 32, 32]


@pytest.mark.parametrize(
    ("first", "last", "steps"), [(1, 8, [1, 4, 8, 8]), (1, 1, [1] * 4), (8, 1, [8, 8, 4, 1])]
)
def test_accumulation_ramps_in_powers_of_two(first, last, steps):
    recipe = dataclasses.replace(
        DIGITS, phases=4, gradient_accumulation_first=first, gradient_accumulation_last=last
    )
    assert [p.accumulation for p in make_phases(recipe, 5000)] == steps


@pytest.mark.parametrize("examples", [2_040, 8_144, 50_000])
def test_paper_transfer_takes_10000_steps_on_any_data_set(examples):
    (only,) = make_phases(RECIPES["efficientnetv2-m-transfer-paper"], examples)
    assert (only.end_step, only.batch_size, only.image_size) == (10_000, 512, 480)


def test_code_transfer_takes_at_least_10000_steps():
    recipe = RECIPES["efficientnetv2-s-transfer-code"]
    assert make_phases(recipe, 50_000)[-1].end_step == 10_000
    # main.py: max(min_steps, epochs * images // batch)
    fine_tuning = find_recipe("efficientnetv2-s-21k-ft1k-code")
    assert (
        make_phases(fine_tuning, IMAGENET_TRAIN)[-1].end_step
        == 15 * IMAGENET_TRAIN // 512
        == 36_801
    )


def test_minimum_steps_are_divided_among_the_phases():
    recipe = dataclasses.replace(DIGITS, phases=4, min_steps=1000, epochs=1)
    assert [p.end_step for p in make_phases(recipe, 100)] == [250, 500, 750, 1000]


# --- which batches divide ------------------------------------------------------------------------


def phase(**changes):
    return dataclasses.replace(
        Phase(1, 0, 10, 0, 64, 1, 32, 0.0, 0.0, 0.0, 0.0, 0.0, "none"), **changes
    )


@pytest.mark.parametrize(
    ("changes", "group", "replicas", "why"),
    [
        ({}, 0, 8, ""),
        ({"accumulation": 8}, 0, 8, ""),
        ({}, 0, 3, "batch_size 64 does not divide over 3 replicas; try 63 or 66"),
        (
            {"accumulation": 3},
            0,
            1,
            "over 1 replicas in 3 gradient-accumulation steps; try 63 or 66",
        ),
        ({"mixup": 0.1, "accumulation": 8}, 0, 8, "in pairs for mixup and CutMix; try 128"),
        ({"mixup": 0.1, "accumulation": 4}, 0, 8, ""),
        ({}, 8, 4, ""),  # two groups a replica
        ({}, 32, 4, ""),  # a group over two replicas
        ({}, 640, 4, ""),  # no larger than the batch
        ({}, 6, 4, "batch_norm_group_size 6 does not divide the 16 images that a replica"),
        ({}, 24, 4, "batch_norm_group_size 24 does not divide"),
        ({}, 48, 4, "batch_norm_group_size 48 does not divide 64 images; try 16 or 0"),
        ({"accumulation": 2}, 32, 4, ""),
        ({"accumulation": 4}, 6, 4, "the 4 images that a replica computes at once; try 4 or 0"),
    ],
)
def test_indivisible_batch_sizes_are_named_with_divisible_ones(changes, group, replicas, why):
    recipe = dataclasses.replace(RECIPES["digits"], batch_norm_group_size=group)
    error = batch_size_error(recipe, phase(**changes), replicas)
    assert error if why else error == ""
    assert why in error


def test_checked_phases_name_the_phase_that_does_not_divide():
    recipe = dataclasses.replace(DIGITS, phases=3, batch_size_first=32, batch_size=24)
    assert checked_phases(recipe, 4, 5000) == make_phases(recipe, 5000)
    with pytest.raises(ValueError, match="phase 1: batch_size 32 does not divide over 3"):
        checked_phases(recipe, 3, 5000)


@pytest.mark.parametrize(("replicas", "accumulation"), [(1, 1), (4, 1), (1, 4), (2, 4), (8, 2)])
def test_replicas_and_accumulation_steps_share_out_every_row(replicas, accumulation):
    shape = phase(accumulation=accumulation)
    rows = []
    for step in range(accumulation):
        for replica in range(replicas):
            first, count = rows_of(replica, step, shape, replicas)
            rows += range(first, first + count)
    assert rows == list(range(64))


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"batch_size": 2}, 2),
        ({"batch_size": 64, "gradient_accumulation_last": 8}, 8),
        ({"batch_size": 64, "batch_norm_group_size": 4}, 4),
        ({"batch_size": 64, "batch_size_first": 8}, 8),
        ({"batch_size": 16}, None),
        ({"batch_size": 2, "freeze": "batch_norm"}, None),
        ({"batch_size": 2, "freeze": "backbone"}, None),
    ],
)
def test_batch_norm_of_few_images_is_a_warning_with_ways_out(changes, images):
    recipe = dataclasses.replace(DIGITS, **changes)
    warning = batch_norm_warning(recipe, make_phases(recipe, 1000))
    assert bool(warning) == (images is not None)
    if images:
        assert f"statistics from {images} images" in warning
        assert "--freeze=batch_norm" in warning
