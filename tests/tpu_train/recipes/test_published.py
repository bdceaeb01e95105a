import dataclasses
import re

import pytest

from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS, default_preprocessing, list_weights
from keras_effnet.variants import VARIANTS
from tpu_train.recipes.schema import Recipe
from tpu_train.recipes.table import RECIPES

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
PUBLISHED = [name for name in RECIPES if re.search("-(paper|code|automl)(-randaugment)?$", name)]
V1 = [f"efficientnet-b{i}" for i in range(8)]
V2_SMALL = [f"efficientnetv2-b{i}" for i in range(4)]
V2 = [f"efficientnetv2-{size}" for size in "sml"]


def _differ(a, b):
    """Names of the fields in which two recipes differ, without name and source."""
    fields = set(FIELDS) - {"name", "source"}
    return {f for f in fields if getattr(RECIPES[a], f) != getattr(RECIPES[b], f)}


# --- numbers, against other tables of this repository ------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_cite_their_source(name):
    places = ("arXiv 2104.00298)", "arXiv 1905.11946)", "google/automl", "tensorflow/tpu")
    assert any(place in RECIPES[name].source for place in places)


@pytest.mark.parametrize("name", PUBLISHED)
def test_evaluation_matches_the_released_weights(name):
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
def test_initial_weights_are_released(name):
    recipe = RECIPES[name]
    assert recipe.weights == "auto" or recipe.weights in list_weights(recipe.model)


@pytest.mark.parametrize("model", [*V1, *V2_SMALL, *V2, "efficientnetv2-xl"])
def test_dropout_of_code_recipes_is_the_network_s(model):
    recipe = RECIPES[f"{model}-code"]
    assert recipe.dropout_first == recipe.dropout_last == VARIANTS[model].dropout_rate


@pytest.mark.parametrize("model", V1)
def test_automl_trains_v1_at_80_percent_of_the_evaluation_size(model):
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
        ("efficientnetv2-s-transfer-paper", 0.001),
        ("efficientnetv2-s-paper-1gpu", 0.016),
    ],
)
def test_peak_learning_rate_is_the_published_one(name, peak):
    recipe = RECIPES[name]
    assert recipe.learning_rate * recipe.batch_size / 256 == pytest.approx(peak)


# --- differences between versions --------------------------------------------------------------


def test_paper_and_code_differ_as_documented():
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
