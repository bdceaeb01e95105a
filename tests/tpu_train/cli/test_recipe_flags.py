import dataclasses
import json

import pytest

from tpu_train.cli import recipe_flags
from tpu_train.cli.flag_parser import SHORTHANDS
from tpu_train.cli.train import define
from tpu_train.recipes.schema import Recipe
from tpu_train.recipes.table import RECIPES


def chosen(*line):
    values = define()
    assert recipe_flags.parse(values, "x", list(line), "")
    return recipe_flags.chosen(values)


def test_every_field_of_a_recipe_is_a_flag_with_its_type():
    values = define()
    for field in dataclasses.fields(Recipe):
        if field.name not in ("name", "source"):
            assert field.name in values
            assert values[field.name].value is None


def test_flags_override_settings_of_the_recipe():
    recipe = chosen("--recipe=digits", "--epochs=3.5", "--noflip", "--model=efficientnet-b0")
    changed = {
        f.name
        for f in dataclasses.fields(recipe)
        if getattr(recipe, f.name) != getattr(RECIPES["digits"], f.name)
    }
    assert changed == {"epochs", "model"}
    assert recipe.epochs == 3.5


def test_a_shorthand_sets_all_phases_and_flags_of_one_setting_override_it():
    recipe = chosen("--recipe=photos", "--image_size=96", "--image_size_eval=128", "--dropout=0.4")
    assert (recipe.image_size_first, recipe.image_size_last, recipe.image_size_eval) == (
        96,
        96,
        128,
    )
    assert (recipe.dropout_first, recipe.dropout_last) == (0.4, 0.4)
    settings = {name for names in SHORTHANDS.values() for name in names}
    fields = {f.name for f in dataclasses.fields(Recipe)}
    assert settings == {n for n in fields if n.endswith(("_first", "_last", "_eval"))} - {
        *("batch_size_first", "crop_eval")  # no range over the phases
    }


def test_hyphens_and_underscores_are_the_same_flag():
    assert chosen("--recipe=digits", "--batch-size=32").batch_size == 32


def test_a_recipe_starts_from_what_a_run_wrote(tmp_path):
    recipe = dataclasses.replace(RECIPES["digits"], freeze="block2,none", epochs=3.5)
    record = {"recipe": {**dataclasses.asdict(recipe), "removed": 1}}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(record))
    assert chosen(f"--recipe={path}", "--seed=7") == dataclasses.replace(recipe, seed=7)
    del record["recipe"]["momentum"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"another version and lacks momentum: give --momentum="):
        chosen(f"--recipe={path}")
    assert chosen(f"--recipe={path}", "--momentum=-1") == recipe
    record["recipe"]["epochs"] = "many"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="epochs must be a float, got 'many'"):
        chosen(f"--recipe={path}", "--momentum=-1")
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not a JSON object"):
        chosen(f"--recipe={path}")


def test_the_content_of_a_file_of_class_weights_belongs_to_the_run(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text('{"cat": 2.0, "dog": 1}')
    assert chosen(f"--class_weights={path}").class_weights == '{"cat": 2.0, "dog": 1}'
