"""The flags that say how a network is trained: ``--recipe`` and one for each of its fields."""

import dataclasses

from absl import flags

from keras_effnet.arguments import normalize_flags
from tpu_train.recipes.schema import Recipe, check
from tpu_train.recipes.table import RECIPES, find_recipe

_NOT_FLAGS = ("name", "source")  # of a recipe
_FIELDS = [field for field in dataclasses.fields(Recipe) if field.name not in _NOT_FLAGS]


def define(values):
    """Adds the flags to absl's `values`; those of the fields are None until they are given."""
    own = {"flag_values": values}
    flags.DEFINE_string(
        "recipe",
        "photos",
        f"one of {len(RECIPES)} rows (docs/recipes.md): photos, finetune, digits, "
        "efficientnetv2-s-paper, efficientnet-b0-code, ...",
        **own,
    )
    of_type = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "bool": flags.DEFINE_boolean,
    }
    for field in _FIELDS:
        of_type[field.type](field.name, None, f"(recipe) {field.metadata['help']}", **own)


def chosen(values):
    """The row that --recipe names, with the numbers that other flags change, checked."""
    changes = {
        field.name: values[field.name].value
        for field in _FIELDS
        if values[field.name].value is not None
    }
    recipe = dataclasses.replace(find_recipe(values.recipe), **changes)
    check(recipe)
    return recipe


def parse(values, command, argv, introduction):
    """Whether to go on: False after printing the help. Raises ``flags.Error`` for what is no flag.

    `introduction` are the first lines of the help.
    """
    flags.DEFINE_boolean("help", False, "print this", short_name="h", flag_values=values)
    known = [*(f"--{f}" for f in values), *(f"--no{f}" for f in values if values[f].boolean)]
    rest = values([command, *normalize_flags(argv, known)])[1:]
    if values.help:
        print(introduction)
        print("\nFlags marked (recipe) change one number of the recipe, which")
        print("effnet-train --recipe=... --show prints.")
        print(values.get_help())
        return False
    if rest:
        raise flags.Error(f"{rest[0]!r} is no flag: write --flag=value")
    return True
