import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.checkpointing import workdir
from tpu_train.checkpointing.manager import StoppedError
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


def test_a_local_run_writes_in_place(tmp_path):
    files = workdir.Workdir(str(tmp_path / "run"), "")
    assert files.local("model.keras") == str(tmp_path / "run" / "model.keras")
    files.publish()
    files.close()
    assert (tmp_path / "run").is_dir()


def test_a_remote_run_s_files_are_copied_when_they_change():
    files = workdir.Workdir("ram://publish/run", "")
    with open(files.local("labels.txt"), "w") as file:
        file.write("a\nb\n")
    with open(files.local("model.partial.keras"), "w") as file:
        file.write("half")
    assert not tf.io.gfile.exists("ram://publish/run/labels.txt")
    files.publish()
    assert tf.io.gfile.listdir("ram://publish/run") == ["labels.txt"]
    with open(files.local("labels.txt"), "a") as file:
        file.write("c\n")
    files.close()
    with tf.io.gfile.GFile("ram://publish/run/labels.txt") as file:
        assert file.read() == "a\nb\nc\n"


def test_a_remote_run_that_goes_on_adds_to_its_metrics():
    with tf.io.gfile.GFile("ram://goes-on/run/metrics.jsonl", "w") as file:
        file.write(json.dumps({"step": 1}) + "\n")
    files = workdir.Workdir("ram://goes-on/run", "")
    files.begin(anew=False)
    with open(files.local("metrics.jsonl"), "a") as file:
        file.write(json.dumps({"step": 2}) + "\n")
    files.close()
    with tf.io.gfile.GFile("ram://goes-on/run/metrics.jsonl") as file:
        assert [json.loads(line)["step"] for line in file.read().splitlines()] == [1, 2]


@pytest.mark.parametrize("where", ["ram://done/run", "local"])
def test_a_run_that_is_done_is_not_overwritten_by_accident(where, tmp_path):
    path = where if "://" in where else str(tmp_path / "run")
    workdir.check(path, overwrite=False)
    with tf.io.gfile.GFile(f"{path}/model.keras", "w") as file:
        file.write("mine")
    with pytest.raises(ValueError, match=r"holds a run already \(model\.keras\)"):
        workdir.check(path, overwrite=False)
    workdir.check(path, overwrite=True)
    files = workdir.Workdir(path, "")
    files.begin(anew=True)
    assert not tf.io.gfile.exists(f"{path}/model.keras")
    files.close()


def test_a_path_that_cannot_be_written_is_told_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to: Not a directory"):
        workdir.check(str(tmp_path / "file" / "run"), overwrite=False)
    with pytest.raises(ValueError, match="'nowhere://run' cannot be written to"):
        workdir.check("nowhere://run", overwrite=False)


def test_a_run_leaves_everything_in_a_remote_folder_and_goes_on_there(tiny_recipe, source, capsys):
    recipe = dataclasses.replace(tiny_recipe, phases=1, epochs=2)
    asked = []
    with pytest.raises(StoppedError):
        train(
            *(recipe, source, source, "ram://whole/run", make_strategy("cpu")),
            stop=lambda: "enough" if asked else asked.append(0),
        )
    assert "metrics.jsonl" in tf.io.gfile.listdir("ram://whole/run")
    result = train(recipe, source, source, "ram://whole/run", make_strategy("cpu"))
    assert "going on after step 3" in capsys.readouterr().err
    assert result.model_path == "ram://whole/run/model.keras"
    left = {name.strip("/") for name in tf.io.gfile.listdir("ram://whole/run")}
    assert left == {
        *("model.keras", "labels.txt", "recipe.json", "metrics.jsonl", "curves.png"),
        "tensorboard",
    }
    with tf.io.gfile.GFile("ram://whole/run/metrics.jsonl") as file:
        steps = [r["step"] for r in map(json.loads, file.read().splitlines()) if "loss" in r]
    assert steps == [3, 6]
    assert np.isfinite(result.accuracy)
