import dataclasses
import itertools
import pathlib
import re
import textwrap

import pytest

from tpu_train.recipes.schema import Recipe, check, show
from tpu_train.recipes.table import RECIPES, find_recipe

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "recipes.md"
FIELDS = [field.name for field in dataclasses.fields(Recipe)]
PAPER = [
    *(f"efficientnet-b{i}" for i in range(8)),
    *(f"efficientnetv2-{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")),
]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_names_its_source(name):
    check(RECIPES[name])
    assert RECIPES[name].name == name
    assert RECIPES[name].source


def test_recipes_match_the_golden_file(golden):
    """All numbers of one recipe, and the differences of the others."""
    base = RECIPES["efficientnetv2-s-code"]
    texts = [show(base)]
    for recipe in RECIPES.values():
        if recipe is not base:
            changes = [
                f"{f} {getattr(recipe, f)}"
                for f in FIELDS[2:]
                if getattr(recipe, f) != getattr(base, f)
            ]
            lines = textwrap.wrap(
                ", ".join(changes), 96, initial_indent="  ", subsequent_indent="  "
            )
            texts.append("\n".join([recipe.name, f"  {recipe.source}", *lines]))
    golden("recipes.txt", "\n\n".join(texts))


def test_unknown_recipe_suggests_the_nearest_names():
    with pytest.raises(ValueError, match=r"Unknown recipe 'digit'\. Did you mean 'digits'"):
        find_recipe("digit")
    with pytest.raises(ValueError, match="Did you mean 'efficientnetv2-s-paper'"):
        find_recipe("efficientnetv2-s-papr")
    with pytest.raises(ValueError, match="'efficientnetv2-s-transfer-paper'"):
        find_recipe("efficientnetv2-s-tranfer-paper")
    with pytest.raises(ValueError, match=r"docs/recipes\.md"):
        find_recipe("vit")


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        *((name, f"{name}-paper") for name in PAPER),
        ("efficientnetv2-xl", "efficientnetv2-xl-code"),  # not in the paper's Table 6
        ("efficientnetv2-m-21k", "efficientnetv2-m-21k-paper"),
        ("efficientnetv2-b0-21k-ft1k", "efficientnetv2-b0-21k-ft1k-code"),
        ("efficientnetv2-l-transfer", "efficientnetv2-l-transfer-paper"),
    ],
)
def test_name_without_version_means_paper_then_code(name, full_name):
    assert find_recipe(name) is RECIPES[full_name]


def _expand(pattern):
    """efficientnet-b{0,1} -> both names, as a shell does."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return {"".join(choice) for choice in itertools.product(*choices)}


def test_docs_list_exactly_the_recipes_of_the_table():
    tables = re.findall(r"^\| (`[^|]*`)", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for cell in tables for p in re.findall("`([^`]*)`", cell) for name in _expand(p)}
    named = {name for name in named if name not in FIELDS}
    assert named == set(RECIPES)
