import dataclasses

import pytest

from tpu_train.recipes.schema import Recipe
from tpu_train.recipes.table import RECIPES

FIELDS = [field.name for field in dataclasses.fields(Recipe)]


def _differ(a, b):
    """Names of the fields in which two recipes differ, without name and source."""
    fields = set(FIELDS) - {"name", "source"}
    return {f for f in fields if getattr(RECIPES[a], f) != getattr(RECIPES[b], f)}


@pytest.mark.parametrize("name", [n for n in RECIPES if n.endswith(("-1gpu", "-v5e8"))])
def test_derived_recipes_change_only_batch_and_precision(name):
    base = name.rsplit("-", 1)[0]
    assert "derived by this project" in RECIPES[name].source
    assert _differ(name, base) <= {
        *("batch_size", "gradient_accumulation_first", "gradient_accumulation_last"),
        *("batch_norm_group_size", "precision"),
    }


@pytest.mark.parametrize(
    ("family", "adaptive"),
    [("cifar10", "cifar10-adaptive"), ("efficientnetv2-s", "efficientnetv2-s-paper")],
)
def test_ablations_differ_in_one_factor_each(family, adaptive):
    regularization = {"randaugment_magnitude_first", "mixup_first", "dropout_first"}
    regularization = {
        f for f in regularization if f != "mixup_first" or RECIPES[adaptive].mixup_last
    }
    assert _differ(f"{family}-progressive", adaptive) == regularization
    assert _differ(f"{family}-random", f"{family}-random-adaptive") == regularization
    assert _differ(f"{family}-random-adaptive", adaptive) == {"progressive_schedule", "phases"}
    assert _differ(f"{family}-fixed", f"{family}-progressive") <= {"image_size_first", "phases"}
