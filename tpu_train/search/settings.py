"""What defines a study, and whether two runs search in the same one. No TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from keras_effnet.compound_space import CompoundSpace, size_in_trial
from keras_effnet.space_lookup import find_space
from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_file import to_json
from keras_effnet.variants import Variant
from tpu_train.recipes.evaluation_settings import check_phases_without_evaluations
from tpu_train.recipes.schema import IMAGE_SIZES, Recipe, check
from tpu_train.recorded_settings import differences
from tpu_train.search.trial_images import LEAST

SAMPLERS = ("random", "nsga2", "tpe")
PRUNERS = ("none", "halving")
STEP_TIMES = ("flops", "measured", "tpu:v5e")
# fields of a recipe that a search sets itself, and the values that they must have
_FIXED = {"weights": "", "width": 1, "depth": 1, "freeze": "none"}


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Everything that the results of a study depend on, but its data and the trials' number."""

    space: str
    recipe: Recipe  # of every trial; its model is the trial's network
    sampler: str = "random"
    sampler_seed: int = 0
    population: int = 16  # networks drawn at random first; those of a generation of nsga2
    parallel_trials: int = 4  # trial n is drawn from the results of trials 0 to n - this
    pruner: str = "none"
    step_time: str = "flops"  # "measured", "flops", or "tpu:" and a TPU
    step_time_exponent: float = -0.07
    parameters_exponent: float = -0.05
    max_parameters: int = 0  # 0: no limit
    max_flops: int = 0  # multiply-adds of an image
    minival: float = 0.1  # training images that rank the trials: a fraction below 1, or a number
    images: int = 5000  # training images of a trial; 0: all

    def identity(self, classes, labels: np.ndarray) -> dict:
        """The settings and the data as JSON values: equal for runs of the same study.

        `classes` are names, `labels` those of all training images.
        """
        recipe = dataclasses.asdict(self.recipe)
        for name in ("name", "source", "model", "steps_per_loop"):
            del recipe[name]
        settings = {**dataclasses.asdict(self), "recipe": recipe}
        data = {
            "classes": list(classes),
            "training_images": len(labels),
            "labels_sha256": hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest(),
        }
        space = find_space(self.space)
        if isinstance(space, CompoundSpace):  # its base may be a file, which may change
            settings["base"] = to_json(space.base)
        return json.loads(json.dumps({**settings, "data": data}))


def check_settings(settings: SearchSettings) -> None:
    """Raises ``ValueError`` for settings that cannot work; reads no data."""
    find_space(settings.space)
    for name, choices in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if getattr(settings, name) not in choices:
            raise ValueError(unknown_name(name, getattr(settings, name), choices))
    if settings.step_time not in ("flops", "measured") and not settings.step_time.startswith(
        "tpu:"
    ):
        raise ValueError(unknown_name("step_time", settings.step_time, STEP_TIMES))
    for name, least in (
        ("population", 2),
        ("parallel_trials", 1),
        ("max_parameters", 0),
        ("max_flops", 0),
        ("images", 0),
        ("sampler_seed", 0),
    ):
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")
    minival = settings.minival
    if not 0 < minival <= 0.5 and not (minival >= LEAST and minival == int(minival)):
        raise ValueError(
            "minival must be a fraction of the training images, at most 0.5, or a number of "
            f"images, at least {LEAST}, got {minival:g}"
        )
    for name, value in _FIXED.items():
        if getattr(settings.recipe, name) != value:
            raise ValueError(
                f"{name} {getattr(settings.recipe, name)!r} does not fit a search, whose networks "
                f"start from random weights and are built as drawn: leave --{name} out"
            )
    if settings.recipe.unlabeled_ratio:
        raise ValueError(
            f"unlabeled_ratio {settings.recipe.unlabeled_ratio:g} does not fit a search, which has "
            "no --unlabeled images: give --unlabeled_ratio=0, or another --recipe"
        )
    if settings.pruner != "none" and settings.recipe.phases < 2:
        raise ValueError(
            f"--pruner={settings.pruner} ends trials at the ends of phases, and the recipe has "
            "one phase: give --phases=2 or more, or leave --pruner out"
        )
    check_phases_without_evaluations(settings.recipe)
    check(settings.recipe)


def trial_recipe(recipe: Recipe, base: Variant, variant: Variant, model: str) -> Recipe:
    """The recipe of a network's trial; `model` is its file.

    The recipe's image sizes are those of `base`; a network for larger images gets larger ones.
    """
    sizes = {name: size_in_trial(getattr(recipe, name), base, variant) for name in IMAGE_SIZES}
    return dataclasses.replace(recipe, model=model, **sizes)


def known_trials(settings: SearchSettings, number: int) -> int:
    """How many trials, from 0 on, must be finished before trial `number` is drawn.

    They are fewer than all earlier ones, so that `parallel_trials` trials can run at a time.

    >>> from tpu_train.recipes.table import find_recipe
    >>> known_trials(SearchSettings("small", find_recipe("search"), sampler="tpe"), 10)
    7
    """
    if settings.sampler == "random" and settings.pruner == "none":
        return 0
    return max(0, number - settings.parallel_trials + 1)


def check_same_study(recorded: Mapping, current: Mapping, where: str) -> None:
    """Raises ``ValueError`` with every value in which the study at `where` differs."""
    if recorded.get("space") != current.get("space"):  # then its base is another one, too
        current = {name: value for name, value in current.items() if name != "base"}
    differing = differences(recorded, current)
    if differing:
        raise ValueError(
            f"{where} has another study ({differing}): continue it with the same flags and data, "
            "or choose another workdir"
        )
