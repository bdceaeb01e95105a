import json

from tests.conftest import TINY
from tpu_train.search.trial_folder import can_resume, remove_checkpoints, write_network


def test_a_trial_resumes_from_checkpoints_of_the_same_folder(tmp_path):
    model = write_network(str(tmp_path), TINY)
    assert not can_resume(str(tmp_path), model)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"model": model}}))
    assert not can_resume(str(tmp_path), model)  # killed before the first checkpoint
    (tmp_path / "checkpoints").mkdir()
    assert can_resume(str(tmp_path), model)
    assert not can_resume(str(tmp_path), "/moved/network.json")
    (tmp_path / "recipe.json").write_text('{"recipe"')
    assert not can_resume(str(tmp_path), model)


def test_a_finished_trial_keeps_its_network_log_and_metrics(tmp_path):
    write_network(str(tmp_path), TINY)
    for name in ("train.log", "recipe.json", "metrics.jsonl", "model.keras", "curves.png"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    remove_checkpoints(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("network.json", "train.log", "recipe.json", "metrics.jsonl")
    }
