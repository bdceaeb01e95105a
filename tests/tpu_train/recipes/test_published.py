import dataclasses
import itertools
import pathlib
import re
import textwrap

import pytest

import tpu_train
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS, default_preprocessing, list_weights
from keras_effnet.variants import VARIANTS
from tpu_train.recipes.published import RECIPES, find_recipe
from tpu_train.recipes.schema import OPTIMIZERS, Recipe, check, show
from tpu_train.training import optimizers

PACKAGE = pathlib.Path(tpu_train.__file__).parent
DOCS = PACKAGE.parent / "docs" / "recipes.md"

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
PUBLISHED = [name for name in RECIPES if re.search("-(paper|code|automl)(-randaugment)?$", name)]
V1 = [f"efficientnet-b{i}" for i in range(8)]
V2_SMALL = [f"efficientnetv2-b{i}" for i in range(4)]
V2 = [f"efficientnetv2-{size}" for size in "sml"]


def _differ(a, b):
    """Names of the fields in which two recipes differ, name and source aside."""
    fields = set(FIELDS) - {"name", "source"}
    return {f for f in fields if getattr(RECIPES[a], f) != getattr(RECIPES[b], f)}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_its_own_check(name):
    check(RECIPES[name])
    assert RECIPES[name].name == name
    assert RECIPES[name].source


def test_every_field_is_read_by_the_code_that_trains():
    code = (
        "\n".join(
            p.read_text()
            for p in PACKAGE.rglob("*.py")
            if p.name not in ("schema.py", "published.py", "phases.py")
        )
        + (PACKAGE / "recipes" / "phases.py").read_text()
    )
    dead = [
        name
        for name in FIELDS
        if name not in ("name", "source") and not re.search(rf"recipe\.{name}\b", code)
    ]
    assert not dead, f"settings that nothing reads: {dead}"


def test_the_optimizers_that_recipes_know_are_the_ones_there_are():
    assert set(OPTIMIZERS) == set(optimizers.OPTIMIZERS)


def test_every_recipe_s_numbers_are_the_golden_ones(golden):
    """All of one recipe's, and what the others have otherwise."""
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


# --- names -------------------------------------------------------------------------------------


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown recipe 'digit'\. Did you mean 'digits'"):
        find_recipe("digit")
    with pytest.raises(ValueError, match="Did you mean 'efficientnetv2-s-paper'"):
        find_recipe("efficientnetv2-s-papr")
    with pytest.raises(ValueError, match="'efficientnetv2-s-cifar10-paper'"):
        find_recipe("efficientnetv2-s-cifar-10-paper")
    with pytest.raises(ValueError, match=r"docs/recipes\.md"):
        find_recipe("vit")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((name, f"{name}-paper") for name in (*V1, *V2_SMALL, *V2)),
        ("efficientnetv2-xl", "efficientnetv2-xl-code"),  # not in the paper's Table 6
        ("efficientnetv2-m-21k", "efficientnetv2-m-21k-paper"),
        ("efficientnetv2-b0-21k-ft1k", "efficientnetv2-b0-21k-ft1k-code"),
        ("efficientnetv2-l-cars", "efficientnetv2-l-cars-paper"),
    ],
)
def test_a_name_without_version_is_the_paper_s_or_else_the_code_s(name, found):
    assert find_recipe(name) is RECIPES[found]


def test_what_the_issue_of_recipes_asks_for_is_there():
    both = ("paper", "code")
    wanted = {
        *(f"{model}-{version}" for model in (*V1, *V2_SMALL, *V2) for version in both),
        "efficientnetv2-xl-code",
        *(f"{model}-21k-{version}" for model in V2 for version in both),
        *(f"{model}-21k-ft1k-{version}" for model in V2 for version in both),
        *(
            f"{model}-{data}-{version}"
            for model in V2
            for data in ("cifar10", "cifar100", "flowers", "cars")
            for version in both
        ),
        *(f"cifar10-{kind}" for kind in ("fixed", "random", "progressive", "adaptive")),
    }
    assert not wanted - set(RECIPES)


def _expand(pattern):
    """efficientnet-b{0,1} -> both names, as a shell does."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return {"".join(choice) for choice in itertools.product(*choices)}


def test_the_page_on_recipes_names_all_of_them_and_no_other():
    tables = re.findall(r"^\| (`[^|]*`)", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for cell in tables for p in re.findall("`([^`]*)`", cell) for name in _expand(p)}
    named = {name for name in named if name not in FIELDS}
    assert named == set(RECIPES)


# --- numbers, against what other files of this repository know ---------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_says_where_its_numbers_are_from(name):
    places = ("arXiv 2104.00298)", "arXiv 1905.11946)", "google/automl", "tensorflow/tpu")
    assert any(place in RECIPES[name].source for place in places)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_evaluates_as_the_weights_that_it_leads_to(name):
    recipe = RECIPES[name]
    if "-21k-ft1k-" in name:
        want = PRETRAINED_WEIGHTS[recipe.model, "imagenet21k-ft1k"].preprocessing
    elif name.endswith("-21k-code"):
        want = PRETRAINED_WEIGHTS[recipe.model, "imagenet21k"].preprocessing
    else:
        want = default_preprocessing(VARIANTS[recipe.model])
    assert recipe.image_size_eval == want.image_size
    assert (recipe.crop_eval or None, recipe.interpolation) == (want.crop, want.interpolation)


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].weights])
def test_weights_to_begin_with_are_released_ones(name):
    recipe = RECIPES[name]
    assert recipe.weights == "auto" or recipe.weights in list_weights(recipe.model)


@pytest.mark.parametrize("model", [*V1, *V2_SMALL, *V2, "efficientnetv2-xl"])
def test_the_code_s_dropout_is_the_network_s_own(model):
    recipe = RECIPES[f"{model}-code"]
    assert recipe.dropout_first == recipe.dropout_last == VARIANTS[model].dropout_rate


@pytest.mark.parametrize("model", V1)
def test_automl_trains_efficientnet_on_four_fifths_of_the_evaluation_s_size(model):
    recipe = RECIPES[f"{model}-automl"]
    assert recipe.image_size_last == int(0.8 * VARIANTS[model].image_size) // 16 * 16


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("efficientnet-b0-paper", 0.256),
        ("efficientnet-b0-code", 0.128),
        ("efficientnetv2-s-paper", 0.256),
        ("efficientnetv2-s-code", 0.256),
        ("efficientnetv2-s-21k-code", 0.128),
        ("efficientnetv2-s-21k-ft1k-code", 0.001),
        ("efficientnetv2-s-cifar10-paper", 0.001),
        ("efficientnetv2-s-paper-1gpu", 0.016),
    ],
)
def test_the_peak_rate_is_the_published_one(name, peak):
    recipe = RECIPES[name]
    assert recipe.learning_rate * recipe.batch_size / 256 == pytest.approx(peak)


# --- differences, which are what the rows are for ----------------------------------------------


def test_paper_and_code_differ_in_what_the_page_says():
    assert _differ("efficientnetv2-s-paper", "efficientnetv2-s-code") == {
        *("progressive_schedule", "randaugment_magnitude_last", "dropout_first", "dropout_last"),
        *("batch_norm_momentum", "solarize_wraps"),
    }
    assert _differ("efficientnetv2-l-paper", "efficientnetv2-l-code") == {
        *("progressive_schedule", "image_size_last", "randaugment_magnitude_last", "cutmix_last"),
        *("dropout_first", "dropout_last", "batch_norm_momentum", "solarize_wraps"),
    }
    assert _differ("efficientnet-b3-paper", "efficientnet-b3-code") == {
        *("progressive_schedule", "batch_size", "batch_norm_group_size", "solarize_wraps"),
    }
    assert _differ("efficientnet-b3-code", "efficientnet-b3-automl") == {
        *("image_size_first", "image_size_last", "batch_size", "batch_norm_group_size"),
        *("weight_decay_on_biases", "batch_norm_momentum"),
    }


@pytest.mark.parametrize("name", [n for n in RECIPES if n.endswith(("-1gpu", "-v5e8"))])
def test_a_derived_recipe_changes_the_machine_s_numbers_alone(name):
    of = name.rsplit("-", 1)[0]
    assert "derived by this project" in RECIPES[name].source
    assert _differ(name, of) <= {
        *("batch_size", "gradient_accumulation_first", "gradient_accumulation_last"),
        *("batch_norm_group_size", "precision"),
    }


@pytest.mark.parametrize(
    ("family", "adaptive"),
    [("cifar10", "cifar10-adaptive"), ("efficientnetv2-s", "efficientnetv2-s-paper")],
)
def test_ablations_differ_in_one_idea_each(family, adaptive):
    noise = {"randaugment_magnitude_first", "mixup_first", "dropout_first"}
    noise = {f for f in noise if f != "mixup_first" or RECIPES[adaptive].mixup_last}
    assert _differ(f"{family}-progressive", adaptive) == noise
    assert _differ(f"{family}-random", f"{family}-random-adaptive") == noise
    assert _differ(f"{family}-random-adaptive", adaptive) == {"progressive_schedule", "phases"}
    assert _differ(f"{family}-fixed", f"{family}-progressive") <= {"image_size_first", "phases"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "efficientnetv2-b9"}, "Did you mean 'efficientnetv2-b"),
        ({"optimizer": "adam"}, "Unknown optimizer 'adam'. Did you mean 'adamw'"),
        ({"learning_rate_schedule": "linear"}, "Unknown learning_rate_schedule 'linear'"),
        ({"precision": "floats"}, "Did you mean 'float32' or"),
        (
            {"progressive_schedule": "papers"},
            "Unknown progressive_schedule 'papers'. Did you mean 'paper'",
        ),
        ({"epochs": 0}, "epochs 0 cannot work: give more than 0"),
        ({"batch_size": -8}, "batch_size -8 cannot work"),
        (
            {"gradient_accumulation_last": 0},
            "gradient_accumulation_last 0 cannot work: give more than 0",
        ),
        ({"image_size_first": 16}, "image_size_first 16 cannot work: give at least 32"),
        ({"dropout_last": 1.0}, r"dropout_last 1.0 is out of range: give one in \[0, 1\)"),
        ({"random_crop_min_area": 0}, "random_crop_min_area 0 is no share"),
        ({"mixup_last": -1}, "mixup_last -1 cannot work"),
    ],
)
def test_a_number_that_cannot_work_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(RECIPES["digits"], **change))
