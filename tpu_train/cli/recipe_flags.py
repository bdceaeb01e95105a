"""Flags that select a recipe: ``--recipe`` and one for each field; parsing."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from absl import flags

from keras_effnet.arguments import normalize_flags
from tpu_train.cli.flag_parser import NOT_FLAGS, SHORTHANDS, Groups, make_parser
from tpu_train.recipes.schema import Recipe, check
from tpu_train.recipes.table import RECIPES, find_recipe


def define(values: flags.FlagValues, default: str = "photos") -> None:
    """Adds the flags to absl's `values`; all but --recipe are None unless given."""
    flags.DEFINE_string(
        "recipe",
        default,
        f"one of {len(RECIPES)} recipes (docs/recipes.md): photos, finetune, digits, "
        "efficientnetv2-s-paper, efficientnet-b0-code, ...; or the recipe.json of a run",
        flag_values=values,
    )
    define_flag = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "bool": flags.DEFINE_boolean,
    }
    types = {field.name: field.type for field in _fields()}
    for field in _fields():
        define_flag[field.type](field.name, None, field.metadata["help"], flag_values=values)
    for stem, names in SHORTHANDS.items():
        text = f"sets {', '.join(names[:-1])} and {names[-1]} where they are not given"
        define_flag[types[names[0]]](stem, None, text, flag_values=values)


def _fields():
    return [field for field in dataclasses.fields(Recipe) if field.name not in NOT_FLAGS]


def chosen(values: flags.FlagValues) -> Recipe:
    """The recipe that --recipe names, with the fields that other flags override; checked.

    A file of class weights is replaced by its content, which so belongs to the run.
    """
    # The flags of single fields come last: they override the shorthands.
    names_of = {**SHORTHANDS, **{field.name: [field.name] for field in _fields()}}
    changes = {
        name: values[flag].value
        for flag, names in names_of.items()
        if values[flag].value is not None
        for name in names
    }
    if changes.get("class_weights", "").endswith(".json"):
        changes["class_weights"] = json.dumps(_read_json(changes["class_weights"], "class_weights"))
    if values.recipe.endswith(".json"):
        recipe = _recipe_of_run(values.recipe, changes)
    else:
        recipe = dataclasses.replace(find_recipe(values.recipe), **changes)
    check(recipe)
    return recipe


def _recipe_of_run(path, changes):
    """The recipe that a run has recorded in its recipe.json, with `changes`."""
    recorded = _read_json(path, "recipe").get("recipe")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    if not isinstance(recorded, dict):
        raise ValueError(f'recipe {path!r} has no entry "recipe": give the recipe.json of a run')
    settings = {**{k: v for k, v in recorded.items() if k in fields}, **changes}
    missing = [name for name in fields if name not in settings]
    if missing:
        raise ValueError(
            f"recipe {path!r} was written by another version and lacks {', '.join(missing)}: give "
            f"{' '.join(f'--{name}=...' for name in missing if name not in NOT_FLAGS)}"
        )
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool}
    for name, value in settings.items():
        if not isinstance(value, kinds[fields[name].type]):
            raise ValueError(
                f"recipe {path!r}: {name} must be a {fields[name].type}, got {value!r}"
            )
    return Recipe(**settings)


def _read_json(path, what):
    """The object in a JSON file."""
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{what} {path!r} cannot be read: {why}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{what} {path!r} is not a JSON object")
    return value


def parse(
    values: flags.FlagValues,
    command: str,
    argv: list[str],
    introduction: str,
    groups: Groups | None = None,
) -> bool:
    """Parses `argv` into `values`; False after printing the help, which starts with `introduction`
    and has the flags of `groups` first.

    Raises ``flags.Error`` or ``ValueError`` for words that are not flags of the command.
    """
    flags.DEFINE_boolean("help", False, "print this help", short_name="h", flag_values=values)
    known = [*(f"--{f}" for f in values), *(f"--no{f}" for f in values if values[f].boolean)]
    words = normalize_flags(argv, known)
    for word, following in zip(words, words[1:]):
        name = word.removeprefix("--")
        if name in values and not values[name].boolean and following.startswith("--"):
            raise flags.Error(f"{word} has no value: write {word}=VALUE")
    rest = values([command, *words])[1:]
    if values.help:
        print(make_parser(values, command, introduction, groups or {}).format_help())
        return False
    if rest:
        raise flags.Error(f"{rest[0]!r} is not a flag: write --flag=value")
    return True
