import dataclasses
import sys

import pytest

from tests.tpu_train.noisy_student.conftest import write_teacher
from tpu_train.recipes import schema
from tpu_train.recipes.schema import OPTIMIZERS, Recipe, check
from tpu_train.recipes.table import RECIPES
from tpu_train.training import optimizers
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


@dataclasses.dataclass(frozen=True)
class ObservedRecipe(Recipe):
    """A recipe that records which of its fields training reads."""

    unread: int = 0
    reads = set()  # noqa: RUF012 - not a field: shared by all copies that `replace` makes

    def __getattribute__(self, name):
        reader = sys._getframe(1).f_globals["__name__"]
        if reader not in (schema.__name__, "dataclasses", "json"):  # copying and checking
            ObservedRecipe.reads.add(name)
        return super().__getattribute__(name)


def observed(recipe, **changes):
    settings = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}
    return ObservedRecipe(**{**settings, "epochs": 1, "phases": 1, **changes})


@pytest.mark.slow
def test_training_reads_every_field(tiny_recipe, conv_recipe, source, pseudo_labeled, tmp_path):
    exponential = {"learning_rate_schedule": "exponential", "decay_epochs": 1.0}
    plateau = {"learning_rate_schedule": "plateau", "optimizer": "rmsprop"}
    ObservedRecipe.reads.clear()
    train(
        observed(tiny_recipe, **exponential), source, source, tmp_path / "a", make_strategy("cpu")
    )
    fields = {f.name for f in dataclasses.fields(ObservedRecipe)} - {"name", "source"}
    of_plateaus = {"plateau_patience", "early_stopping_metric"}
    of_teachers = {"pseudo_labels", "teacher_temperature", "teacher_weight"}
    unread = {"unread", "rho", "momentum", *of_plateaus, *of_teachers}
    assert fields - ObservedRecipe.reads == unread
    teacher = {"unlabeled_ratio": 1.0, "teacher": str(write_teacher(tmp_path / "teacher"))}
    recipe = observed(conv_recipe, **plateau, **teacher, early_stopping_patience=1)
    train(recipe, pseudo_labeled, source, tmp_path / "b", make_strategy("cpu"), eval_epochs=1)
    assert fields - ObservedRecipe.reads == {"unread"}


def test_schema_and_optimizers_name_the_same_optimizers():
    assert set(OPTIMIZERS) == set(optimizers.OPTIMIZERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "efficientnetv2-b9"}, "Did you mean 'efficientnetv2-b"),
        ({"optimizer": "adm"}, "Unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"optimizer": "adam"}, "adam has no decoupled weight decay .*--optimizer=adamw"),
        ({"momentum": 0.8}, "momentum is no setting of adamw, which has beta1, beta2, epsilon"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), or -1 for the value of adamw \(0.999\)"),
        ({"freeze": "backbone,none", "phases": 1}, "freeze 'backbone,none' must have one value"),
        ({"freeze": "backbone,"}, "freeze 'backbone,' must have one value for all phases"),
        ({"optimizer": "tfa_yogi", "layer_decay": 0.9}, "tfa_yogi trains the same layers in all"),
        ({"layer_decay": 1.1}, r"layer_decay must be in \(0, 1\], got 1.1"),
        ({"learning_rate_schedule": "linear"}, "Unknown learning_rate_schedule 'linear'"),
        ({"precision": "floats"}, "Did you mean 'float32' or"),
        (
            {"progressive_schedule": "papers"},
            "Unknown progressive_schedule 'papers'. Did you mean 'paper'",
        ),
        ({"epochs": 0}, "epochs must be greater than 0, got 0"),
        ({"batch_size": -8}, "batch_size must be greater than 0, got -8"),
        ({"gradient_accumulation_last": 0}, "gradient_accumulation_last must be greater than 0"),
        ({"image_size_first": 16}, "image_size_first must be at least 32, got 16"),
        ({"dropout_last": 1.0}, r"dropout_last must be in \[0, 1\), got 1.0"),
        ({"random_crop_min_area": 0}, r"random_crop_min_area must be in \(0, 1\], got 0"),
        ({"mixup_last": -1}, "mixup_last must be at least 0, got -1"),
        ({"unlabeled_ratio": -1}, "unlabeled_ratio must be at least 0, got -1"),
        ({"pseudo_labels": "sofft"}, "Unknown pseudo_labels 'sofft'. Did you mean 'soft'"),
        ({"teacher_weight": 2}, r"teacher_weight must be in \[0, 1\], got 2"),
        ({"unlabeled_ratio": 1, "augment": "keras_cv"}, "keras_cv' mixes the labels of classes"),
    ],
)
def test_a_setting_out_of_range_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(RECIPES["digits"], **change))
