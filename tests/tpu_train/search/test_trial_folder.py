import dataclasses
import json

from keras_effnet.variant_file import read_variant
from tests.conftest import TINY
from tpu_train.recipes.table import find_recipe
from tpu_train.search.trial_folder import can_resume, remove_checkpoints, write_network


def test_a_trial_resumes_from_checkpoints_of_the_same_recipe(tmp_path):
    model = write_network(str(tmp_path), TINY)
    recipe = dataclasses.replace(find_recipe("search"), model=model)
    assert not can_resume(str(tmp_path), recipe)
    content = json.dumps({"recipe": dataclasses.asdict(recipe)})
    (tmp_path / "recipe.json").write_text(content)
    assert not can_resume(str(tmp_path), recipe)  # killed before the first checkpoint
    (tmp_path / "checkpoints").mkdir()
    assert can_resume(str(tmp_path), recipe)
    for other in ({"model": "/moved/network.json"}, {"steps_per_loop": 7}):
        assert not can_resume(str(tmp_path), dataclasses.replace(recipe, **other))
    (tmp_path / "recipe.json").write_text('{"recipe"')
    assert not can_resume(str(tmp_path), recipe)


def test_the_folder_of_another_network_gets_the_new_one(tmp_path):
    write_network(str(tmp_path), TINY)
    (tmp_path / "checkpoints").mkdir()
    assert read_variant(write_network(str(tmp_path), TINY)) == TINY
    assert (tmp_path / "checkpoints").exists()
    other = dataclasses.replace(TINY, head_filters=TINY.head_filters * 2)
    assert read_variant(write_network(str(tmp_path), other)) == other
    assert not (tmp_path / "checkpoints").exists()
    (tmp_path / "network.json").write_text("{")
    assert read_variant(write_network(str(tmp_path), other)) == other


def test_a_finished_trial_keeps_its_network_log_and_metrics(tmp_path):
    write_network(str(tmp_path), TINY)
    for name in ("train.log", "recipe.json", "metrics.jsonl", "model.keras", "curves.png"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    remove_checkpoints(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("network.json", "train.log", "recipe.json", "metrics.jsonl")
    }
