import dataclasses
import pathlib
import re

import pytest

import tpu_train
from tpu_train import optimizer, recipes
from tpu_train.recipes import RECIPES, Recipe, check, find_recipe

PACKAGE = pathlib.Path(tpu_train.__file__).parent


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_its_own_check(name):
    check(RECIPES[name])
    assert RECIPES[name].name == name
    assert RECIPES[name].source


def test_every_field_is_read_by_the_code_that_trains():
    code = (
        "\n".join(
            p.read_text() for p in PACKAGE.glob("*.py") if p.name not in ("recipes.py", "phases.py")
        )
        + (PACKAGE / "phases.py").read_text()
    )
    dead = [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name not in ("name", "source") and not re.search(rf"recipe\.{field.name}\b", code)
    ]
    assert not dead, f"settings that nothing reads: {dead}"


def test_the_optimizers_that_recipes_know_are_the_ones_there_are():
    assert set(recipes.OPTIMIZERS) == set(optimizer.OPTIMIZERS)


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown recipe 'digit'\. Did you mean 'digits'"):
        find_recipe("digit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "efficientnetv2-b9"}, "Did you mean 'efficientnetv2-b"),
        ({"optimizer": "adam"}, "Unknown optimizer 'adam'. Did you mean 'adamw'"),
        ({"schedule": "linear"}, "Unknown schedule 'linear'"),
        ({"precision": "float16"}, "Did you mean 'float32' or 'bfloat16'|'bfloat16'"),
        ({"epochs": 0}, "epochs 0 cannot work: give more than 0"),
        ({"batch_size": -8}, "batch_size -8 cannot work"),
        ({"image_size_first": 16}, "image_size_first 16 cannot work: give at least 32"),
        ({"dropout_last": 1.0}, r"dropout_last 1.0 is out of range: give one in \[0, 1\)"),
        ({"crop_area_min": 0}, "crop_area_min 0 is no share"),
        ({"mixup_last": -1}, "mixup_last -1 cannot work"),
    ],
)
def test_a_number_that_cannot_work_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(RECIPES["digits"], **change))
