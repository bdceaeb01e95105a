import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.atomic_write import replacing
from tpu_train.checkpointing import workdir
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


def test_a_local_run_writes_in_place(tmp_path):
    files = workdir.Workdir(str(tmp_path / "run"))
    assert files.local("model.keras") == str(tmp_path / "run" / "model.keras")
    files.publish()
    files.close()
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("where", ["ram://workers/run", "local"])
def test_only_the_chief_changes_the_folder(where, tmp_path):
    """The other workers know the best model of the run that they resume, and leave nothing."""
    path = where if "://" in where else str(tmp_path / "run")
    tf.io.gfile.makedirs(path)
    for name in ("best.keras", "metrics.jsonl"):
        with tf.io.gfile.GFile(f"{path}/{name}", "w") as file:
            file.write("chief's")
    other = workdir.Workdir(path, writes=False)
    other.prepare(resume=False)
    for name in ("model.keras", "metrics.jsonl"):
        with open(other.local(name), "w") as file:
            file.write("other's")
    other.publish()
    other.remove("best.keras")
    other.prepare(resume=True)
    with open(other.local("best.keras")) as file:
        assert file.read() == "chief's"
    other.close()
    assert not os.path.exists(other.local("model.keras"))
    names = {name.strip("/") for name in tf.io.gfile.listdir(path)}
    assert names == {"best.keras", "metrics.jsonl", "checkpoints"}
    with tf.io.gfile.GFile(f"{path}/metrics.jsonl") as file:
        assert file.read() == "chief's"


def test_changed_files_are_copied_to_a_remote_folder():
    files = workdir.Workdir("ram://publish/run")
    with open(files.local("labels.txt"), "w") as file:
        file.write("a\nb\n")
    with open(files.local("model.partial.keras"), "w") as file:
        file.write("incomplete")
    assert not tf.io.gfile.exists("ram://publish/run/labels.txt")
    files.publish()
    assert tf.io.gfile.listdir("ram://publish/run") == ["labels.txt"]
    with open(files.local("labels.txt"), "a") as file:
        file.write("c\n")
    files.close()
    with tf.io.gfile.GFile("ram://publish/run/labels.txt") as file:
        assert file.read() == "a\nb\nc\n"


def test_a_resumed_remote_run_appends_to_its_metrics():
    with tf.io.gfile.GFile("ram://resumed/run/metrics.jsonl", "w") as file:
        file.write(json.dumps({"step": 1}) + "\n")
    files = workdir.Workdir("ram://resumed/run")
    files.prepare(resume=True)
    with open(files.local("metrics.jsonl"), "a") as file:
        file.write(json.dumps({"step": 2}) + "\n")
    files.close()
    with tf.io.gfile.GFile("ram://resumed/run/metrics.jsonl") as file:
        assert [json.loads(line)["step"] for line in file.read().splitlines()] == [1, 2]


@pytest.mark.parametrize("where", ["ram://done/run", "local"])
def test_a_finished_run_is_replaced_only_with_overwrite(where, tmp_path):
    path = where if "://" in where else str(tmp_path / "run")
    workdir.create(path)
    workdir.check_not_finished(path)
    with tf.io.gfile.GFile(f"{path}/model.keras", "w") as file:
        file.write("mine")
    with pytest.raises(ValueError, match=r"already contains a run \(model\.keras\)"):
        workdir.check_not_finished(path)
    files = workdir.Workdir(path)
    files.prepare(resume=False)
    assert not tf.io.gfile.exists(f"{path}/model.keras")
    files.close()


def test_a_run_killed_before_its_first_checkpoint_is_resumed(tmp_path):
    files = workdir.Workdir(str(tmp_path))
    files.prepare(resume=False)
    (tmp_path / "metrics.jsonl").write_text("")
    workdir.check_not_finished(str(tmp_path))


def test_a_run_removes_what_a_kill_has_left_of_its_files(tmp_path):
    names = ("model.keras", "best.keras", "recipe.json", "evaluation.html", "mine.keras")
    writing = [replacing(tmp_path / name) for name in names]  # none of them ends
    *_, mine = [file.__enter__() for file in writing]
    workdir.Workdir(str(tmp_path)).prepare(resume=True)
    assert {str(path) for path in tmp_path.iterdir()} == {mine, str(tmp_path / "checkpoints")}


def test_an_unwritable_path_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not writable: Not a directory"):
        workdir.create(str(tmp_path / "file" / "run"))
    with pytest.raises(ValueError, match="'nowhere://run' is not writable"):
        workdir.create("nowhere://run")


def test_a_run_in_a_remote_folder_resumes_and_exports_there(conv_recipe, source, capsys):
    recipe = dataclasses.replace(conv_recipe, phases=1, epochs=2)
    reasons = iter(["", "test"])
    with pytest.raises(StoppedError):
        train(
            *(recipe, source, source, "ram://complete/run", make_strategy("cpu")),
            stop=lambda: next(reasons),
        )
    assert "metrics.jsonl" in tf.io.gfile.listdir("ram://complete/run")
    result = train(recipe, source, source, "ram://complete/run", make_strategy("cpu"))
    assert "resuming after step 3" in capsys.readouterr().err
    assert result.model_path == "ram://complete/run/model.keras"
    remaining = {name.strip("/") for name in tf.io.gfile.listdir("ram://complete/run")}
    assert remaining >= {
        *("model.keras", "labels.txt", "recipe.json", "metrics.jsonl", "curves.png"),
        *("tensorboard", "evaluation.html", "evaluation.json", "model_card.md"),
    }
    assert "checkpoints" not in remaining
    with tf.io.gfile.GFile("ram://complete/run/metrics.jsonl") as file:
        steps = [r["step"] for r in map(json.loads, file.read().splitlines()) if "loss" in r]
    assert steps == [3, 6]
    assert np.isfinite(result.accuracy)
