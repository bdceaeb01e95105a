import dataclasses

from tpu_train.recipes.phases import batch_size_error, extend_phases, make_phases, show
from tpu_train.recipes.table import RECIPES, find_recipe


def test_published_students_have_the_numbers_of_the_official_script():
    expected = {"b0": (1, 0, 700), "b4": (3, 15, 700), "b7": (3, 27, 350), "l2": (14, 27, 350)}
    for size, numbers in expected.items():
        recipe = find_recipe(f"noisy-student-{size}")
        magnitude = recipe.randaugment_magnitude_last
        assert (recipe.unlabeled_ratio, magnitude, recipe.epochs) == numbers
        assert recipe.learning_rate * recipe.batch_size / 256 == 0.128
        assert recipe.epochs / recipe.decay_epochs == 350 / 2.4
        (phase,) = make_phases(recipe, 1_281_167)
        assert batch_size_error(recipe, phase, 32) == ""


def test_pseudo_labeled_images_are_added_to_the_batch():
    recipe = dataclasses.replace(
        RECIPES["digits"], unlabeled_ratio=3.0, batch_size=16, batch_size_first=8, phases=2
    )
    plain = make_phases(dataclasses.replace(recipe, unlabeled_ratio=0.0), 100)
    phases = make_phases(recipe, 100)
    assert [(p.batch_size, p.unlabeled, p.images) for p in phases] == [(8, 24, 32), (16, 48, 64)]
    assert [(p.first_step, p.end_step, p.first_example) for p in phases] == [
        (p.first_step, p.end_step, p.first_example) for p in plain
    ]
    assert phases[1].first_unlabeled == 24 * phases[0].end_step
    more = extend_phases(phases, recipe, 100, recipe.epochs + 1)[-1]
    steps = phases[1].end_step - phases[1].first_step
    assert more.first_unlabeled == phases[1].first_unlabeled + 48 * steps
    assert "16+48" in show(phases)


def test_labeled_rows_are_spread_evenly_over_a_batch():
    phase = dataclasses.replace(make_phases(RECIPES["digits"], 100)[0], batch_size=6, unlabeled=10)
    labeled = [phase.is_labeled(row) for row in range(16)]
    assert sum(labeled) == 6
    assert [sum(labeled[i : i + 8]) for i in (0, 8)] == [3, 3]
    assert [phase.labeled_before(row) for row in (0, 8, 16)] == [0, 3, 6]


def test_batch_sizes_with_pseudo_labels_that_divide_are_named():
    recipe = dataclasses.replace(RECIPES["finetune"], unlabeled_ratio=3.0, batch_size=32)
    (phase,) = make_phases(recipe, 400)
    assert batch_size_error(recipe, phase, 4) == ""
    error = batch_size_error(recipe, phase, 3)
    assert "batch_size 32 with 96 pseudo-labeled images does not divide over 3" in error
    assert error.endswith("try 30 or 33")
