"""An argparse parser with the absl flags of a command: for its help and for shell completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from absl import flags

from keras_effnet.arguments import ArgumentParser
from tpu_train.recipes.schema import Recipe
from tpu_train.recipes.table import RECIPES

NOT_FLAGS = ("name", "source")  # fields of a recipe
_FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
# --dropout=0.1 sets dropout_first and dropout_last; --image_size also the size of the evaluation.
SHORTHANDS = {
    stem: [name for name in _FIELDS if name in (f"{stem}_first", f"{stem}_last", f"{stem}_eval")]
    for stem in (name.removesuffix("_first") for name in _FIELDS if name.endswith("_first"))
    if f"{stem}_last" in _FIELDS
}
# title of a group -> (example, names of its flags)
Groups = Mapping[str, tuple[str, Sequence[str]]]

_RECIPE_EXAMPLES = {
    "model and run length": "--model=efficientnetv2-s --epochs=10 --batch_size=64",
    "progressive learning from the first to the last phase": (
        "--phases=2 --image_size_first=128 --image_size_last=224"
    ),
    "images": "--augment=trivialaugment --vertical_flip",
    "loss": "--label_smoothing=0.1 --class_weights=balanced",
    "pseudo-labels and distillation": "--teacher=teacher.keras --teacher_weight=0.7",
    "optimization": "--optimizer=adamw --learning_rate=0.001",
    "machine": "--precision=bfloat16 --seed=1",
}


def make_parser(
    values: flags.FlagValues, command: str, introduction: str, groups: Groups
) -> ArgumentParser:
    """A parser with the flags of `groups`, then all others, then those of a recipe.

    Flags of a recipe have the value of the recipe that ``values.recipe`` names in their help.
    """
    parser = ArgumentParser(prog=command, description=introduction.rstrip())
    fields = [*_FIELDS, *SHORTHANDS] if "recipe" in values else []
    grouped = {name for _, names in groups.values() for name in names}
    others = [n for n in values if n not in {*grouped, *fields, "h", "help"}]
    if others:
        groups = {**groups, "other flags": ("", others)}
    for title, (example, names) in groups.items():
        group = parser.add_group(title, example)
        for name in names:
            _add(group, values[name], values[name].help, values[name].default)
    if fields:
        _add_recipe(parser, values, command)
    return parser


def _add_recipe(parser, values, command):
    recipe = RECIPES.get(values["recipe"].value, RECIPES["photos"])
    stems = {names[0]: stem for stem, names in SHORTHANDS.items()}
    for field in _FIELDS.values():
        if field.metadata["group"]:
            title = field.metadata["group"]
            example = f"{command} {_RECIPE_EXAMPLES[title]}"
            group = parser.add_group(f"recipe: {title}", example)
        if field.name in stems:
            flag = values[stems[field.name]]
            _add(group, flag, flag.help)
        if field.name not in NOT_FLAGS:
            value = getattr(recipe, field.name)
            text = f"{value:g}" if isinstance(value, float) else str(value) or "empty"
            _add(group, values[field.name], f"{field.metadata['help']} ({recipe.name}: {text})")


def _add(group, flag, text, default=None):
    text = text.replace("%", "%%")
    if flag.boolean:
        names = (f"--{flag.name}", f"--no{flag.name}")
        group.add_argument(*names, action="store_true", help=text, default=default)
    elif isinstance(flag, flags.EnumFlag):
        choices = flag.parser.enum_values
        text = text.replace(f"<{'|'.join(choices)}>: ", "")
        group.add_argument(f"--{flag.name}", choices=choices, help=text, default=default)
    else:
        kind = {"int": int, "float": float}.get(flag.flag_type())
        group.add_argument(f"--{flag.name}", help=text, default=default, type=kind)
