"""All recipes by name. No TensorFlow."""

from __future__ import annotations

from keras_effnet.suggestions import did_you_mean
from tpu_train.recipes.noisy_student import NOISY_STUDENT
from tpu_train.recipes.project import ABLATIONS, DERIVED, SMALL_DATA
from tpu_train.recipes.published import PUBLISHED
from tpu_train.recipes.schema import Recipe

RECIPES = {row.name: row for row in (*SMALL_DATA, *PUBLISHED, *NOISY_STUDENT, *ABLATIONS, *DERIVED)}


def find_recipe(name: str) -> Recipe:
    """The :class:`Recipe` with this name.

    The version may be left out: it is then the paper's, or the code's where the paper has none.
    Raises ``ValueError`` with the nearest names for an unknown recipe.

    >>> find_recipe("efficientnetv2-m").name, find_recipe("efficientnetv2-xl").name
    ('efficientnetv2-m-paper', 'efficientnetv2-xl-code')
    """
    for full_name in (name, f"{name}-paper", f"{name}-code"):
        if full_name in RECIPES:
            return RECIPES[full_name]
    raise ValueError(
        f"Unknown recipe {name!r}.{did_you_mean(name, RECIPES)} docs/recipes.md describes all "
        f"{len(RECIPES)}; for your images use 'photos' (from scratch) or 'finetune'"
    )
