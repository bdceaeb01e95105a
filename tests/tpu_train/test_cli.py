import dataclasses
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_effnet.datasets import manifests
from keras_effnet.pretrained.download import DownloadError
from tpu_train import cli
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.cli.train import STOPPED, main
from tpu_train.folder_lock import locked
from tpu_train.recipes.schema import Recipe
from tpu_train.recipes.table import RECIPES
from tpu_train.training.metrics_writer import MetricsWriter

ROOT = pathlib.Path(__file__).parents[2]


def test_show_prints_recipe_and_phases_without_training(capsys, tmp_path):
    assert main(["--recipe=digits", "--show", "--examples=1198", f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "image_size_last" in out
    assert "phase           steps  batch  image size" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch=3"], "Unknown flag '--epoch'. Did you mean '--epochs'"),
        (["--recipe=photo"], "Did you mean 'photos'"),
        (["--epochs=many"], "epochs"),
        (["--model=efficientnet-b99"], "Did you mean 'efficientnet-b"),
        (["photos"], "'photos' is not a flag"),
        ([], "--data is missing"),
        (["--data=somewhere"], "--workdir is missing"),
        (["--data=nowhere", "--workdir=w", "--device=cpu"], "'nowhere' does not exist"),
        (["--data=nowhere", "--workdir=w", "--device=cp"], "Did you mean 'cpu'"),
        (["--data=nowhere", "--workdir=w", "--stop_after=soon"], "'soon'"),
        (["--recipe=run1/recipe.json"], "recipe 'run1/recipe.json' cannot be read: No such file"),
        (["--teacher_weight=0.9"], "--teacher_weight is that of a teacher, and there is none"),
        (["--class_weights=w.json"], "class_weights 'w.json' cannot be read: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_every_command_has_help(command, capsys):
    assert cli.main([command, "--help"] if command else ["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: effnet-train {command}".rstrip())


def test_help_has_each_recipe_flag_once(capsys):
    assert cli.main(["--help"]) == 0
    lines = [line.split()[0].strip(",") for line in capsys.readouterr().out.splitlines() if line]
    fields = {f.name for f in dataclasses.fields(Recipe)} - {"name", "source"}
    assert {name: lines.count(f"--{name}") for name in fields} == dict.fromkeys(fields, 1)


@pytest.fixture
def arguments(conv_recipe, monkeypatch, tmp_path):
    """A command line that trains a small convolution on 20 random images."""
    monkeypatch.setitem(RECIPES, "conv", conv_recipe)
    random = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(
        data, images=random.integers(0, 255, (20, 9, 9, 3), np.uint8), labels=np.arange(20) % 2
    )
    return ["--recipe=conv", f"--data={data}", f"--workdir={tmp_path / 'w'}", "--device=cpu"]


@pytest.mark.every_stack
def test_trains_on_a_file_and_exits_with_the_documented_statuses(arguments, tmp_path, capsys):
    assert main([*arguments, "--epochs=1", "--phases=1"]) == 0
    assert "evaluation accuracy" in capsys.readouterr().out
    assert (tmp_path / "w" / "model.keras").is_file()
    assert main([*arguments, "--epochs=1", "--phases=1"]) == 0  # the same command again
    out = capsys.readouterr().out
    assert f"the run in {tmp_path / 'w'} is complete" in out
    assert out.count("\n") == 1
    assert main(arguments) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert main([*arguments, "--learning_rate=1e30", "--clip_norm=0", "--overwrite"]) == 1
    assert "lower --learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_the_test_split_is_evaluated_at_the_end(arguments, tmp_path, capsys):
    for i in range(12):
        split, name = ("train", "val", "test")[i % 3], "ab"[i % 2]
        (tmp_path / "photos" / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (20 * i,) * 3).save(
            tmp_path / "photos" / split / name / f"{i}.png"
        )
    data = f"--data={tmp_path / 'photos'}"
    assert main([*arguments, data, "--epochs=1", "--phases=1", "--batch_size=2"]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert f"evaluation page {tmp_path / 'w' / 'test.html'}" in out
    record = json.loads((tmp_path / "w" / "test.json").read_text())
    assert record["metrics"]["images"] == 4


def test_a_manifest_is_read_once(arguments, tmp_path, monkeypatch):
    for i in range(4):
        Image.new("RGB", (9, 9), (60 * i,) * 3).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{'ab'[i % 2]}\n" for i in range(4)]
    (tmp_path / "m.csv").write_text("image,label\n" + "".join(rows))
    read, read_manifest = [], manifests.read_manifest
    monkeypatch.setattr(
        manifests, "read_manifest", lambda path, *files: read.append(path) or read_manifest(path)
    )
    trained = []

    def train(recipe, training, evaluation, *_, **options):
        trained.append((training.examples, evaluation.examples, options["test"]))
        raise StoppedError("test")

    monkeypatch.setattr("tpu_train.training.run.train", train)
    line = [*arguments, f"--data={tmp_path / 'm.csv'}", "--holdout=0.5"]
    assert main(line) == STOPPED
    assert trained == [(2, 2, None)]
    assert read == [str(tmp_path / "m.csv")]


def test_the_best_evaluation_is_printed_in_the_metric_of_the_run(arguments, capsys, monkeypatch):
    result = types.SimpleNamespace(
        **dict.fromkeys(("seconds", "accuracy"), 0.9),
        **dict.fromkeys(("model_path", "curves_path", "card_path", "best_path"), "w/best.keras"),
        **{"test_accuracy": None, "pages": {}},
        best={"step": 1, "ema": 0.4, "loss_ema": 0.5},
        exported={"step": 2, "ema": 0.9, "loss_ema": 0.7},
    )
    monkeypatch.setattr("tpu_train.training.run.train", lambda *_, **options: result)
    assert main([*arguments, "--learning_rate_schedule=plateau", "--eval_epochs=1"]) == 0
    assert "best evaluation loss 0.5000, after step 1: w/best.keras" in capsys.readouterr().out


def test_an_earlier_better_evaluation_is_printed(arguments, tmp_path, capsys, monkeypatch):
    accuracies = [0.9, 0.4]
    monkeypatch.setattr(
        "tpu_train.training.run.make_evaluation",
        lambda *_: lambda: {"ema": accuracies.pop(0), "non_ema": 0.25},
    )
    assert main([*arguments, "--epochs=2", "--phases=2"]) == 0
    out = capsys.readouterr().out
    best = tmp_path / "w" / "best.keras"
    assert "evaluation accuracy 40.00% after" in out
    assert f"best evaluation accuracy 90.00%, after step 2: {best}" in out
    assert best.is_file()


def test_ctrl_c_saves_and_the_same_command_resumes(arguments, monkeypatch, tmp_path, capsys):
    log_steps = MetricsWriter.log_steps
    errors = []

    def interrupted(*args):
        log_steps(*args)
        if not errors:  # a second signal would end this process at once
            os.kill(os.getpid(), signal.SIGINT)
            while "Press Ctrl-C again" not in "".join(errors):  # printed by a thread
                errors.append(capsys.readouterr().err)
                time.sleep(0.01)

    monkeypatch.setattr(MetricsWriter, "log_steps", interrupted)
    before = signal.getsignal(signal.SIGINT)
    arguments += ["--phases=1", "--epochs=2", "--steps_per_loop=2"]
    assert main(arguments) == STOPPED
    assert signal.getsignal(signal.SIGINT) is before
    assert "Stopping after the current steps" in "".join(errors)
    err = capsys.readouterr().err
    assert "Stopped after step 2 (SIGINT). The same command resumes the run" in err
    monkeypatch.setattr(MetricsWriter, "log_steps", log_steps)
    assert main(arguments) == 0
    assert "resuming after step 2" in capsys.readouterr().err
    assert not (tmp_path / "w" / "checkpoints").exists()


_IMPORT_ALL = """
import importlib.util, os, pkgutil
before = dict(os.environ)
import tpu_train
names = [m.name for m in pkgutil.walk_packages(tpu_train.__path__, "tpu_train.")]
for name in names:
    if name.rpartition(".")[2] not in ("wandb_run", "mlflow_run", "prepare_beam"):  # extras
        if not name.startswith("tpu_train.search.") or importlib.util.find_spec("optuna"):
            importlib.import_module(name)
assert "tpu_train.training.run" in names
changed = {k for k in {*before, *os.environ} if before.get(k) != os.environ.get(k)}
print(sorted(k for k in changed if k.startswith("TF_ENABLE")))
"""


@pytest.mark.slow
@pytest.mark.every_stack
def test_importing_every_module_does_not_set_onednn():
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    process = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert process.stdout == "[]\n", process.stderr


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_the_command_line_enables_onednn_unless_it_is_set(monkeypatch, before, after, capsys):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if before is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before)
    assert cli.main(["--help"]) == 0
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == after


def test_weights_that_cannot_be_downloaded_are_one_line_and_status_2(
    arguments, monkeypatch, capsys
):
    def offline(*_):
        raise DownloadError("b0.h5 is not in the cache, and KERAS_EFFNET_OFFLINE is set")

    monkeypatch.setattr("tpu_train.training.model_factory.training_network", offline)
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "effnet-train: b0.h5 is not in the cache, and KERAS_EFFNET_OFFLINE is set"
    )


def _interrupted(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_in_prepare_is_one_line_and_status_75(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tpu_train.input_pipeline.tfrecord_writer.write_shards", _interrupted)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    arguments = [f"--data={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"]
    assert cli.main(["prepare", *arguments]) == STOPPED
    err = capsys.readouterr().err.strip()
    assert err == "Stopped: the same command resumes at the first missing shard"


def test_ctrl_c_in_a_verification_promises_no_resume(monkeypatch, capsys, tmp_path):
    (tmp_path / "train-00000-of-00001").touch()
    monkeypatch.setattr("tpu_train.cli.prepare._check", _interrupted)
    assert cli.main(["prepare", "--check", f"--data={tmp_path}"]) == STOPPED
    err = capsys.readouterr().err
    assert (err.count("\n"), "shard" in err) == (1, False)


def test_ctrl_c_elsewhere_is_one_line_and_status_75(monkeypatch, capsys):
    monkeypatch.setattr("tpu_train.cli.train.main", _interrupted)
    assert cli.main(["--data=x"]) == STOPPED
    err = capsys.readouterr().err
    assert (err.split(":")[0], err.count("\n")) == ("effnet-train", 1)


def test_a_workdir_of_another_recipe_is_found_before_the_data_is_read(tmp_path, capsys):
    workdir, data = tmp_path / "run", tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (workdir / "checkpoints" / "step-3").mkdir(parents=True)
    run = dataclasses.asdict(RECIPES["digits"])
    (workdir / "recipe.json").write_text(json.dumps({"run": run}))
    line = ["--recipe=digits", f"--workdir={workdir}", f"--data={data}"]
    assert main([*line, "--batch_size=7"]) == 2
    err = capsys.readouterr().err
    assert "belongs to a different run (batch_size 64, now 7)" in err
    assert err.count("\n") == 1


def test_a_workdir_in_use_is_found_before_the_data_is_read(tmp_path, capsys):
    line = [f"--workdir={tmp_path}", f"--data={ROOT}"]
    with locked(str(tmp_path)):
        assert main(line) == 2
    err = capsys.readouterr().err
    assert f"another process is writing to {tmp_path}" in err
    assert err.count("\n") == 1


def _full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "w/model.keras")


def _lost_device(*_):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\n0 bytes")


@pytest.mark.parametrize(
    ("failing", "line"),
    [
        (_full_disk, "[Errno 28] No space left on device: 'w/model.keras'"),
        (_lost_device, "out of memory: lower --batch_size. OOM when allocating"),
    ],
)
def test_a_failure_of_the_machine_is_one_line_and_status_1(failing, line, monkeypatch, capsys):
    monkeypatch.setattr("tpu_train.cli.prepare.main", failing)
    assert cli.main(["prepare", "--data=x"]) == 1
    assert capsys.readouterr().err == f"effnet-train prepare: {line}\n"


def test_a_model_of_everything_is_trained_extended_and_exported(arguments, tmp_path, capsys):
    """--holdout=0, then more --epochs, then --export of the checkpoints that are kept."""
    line = [*arguments, "--holdout=0", "--phases=1", "--keep_checkpoints"]
    assert main([*line, "--epochs=1"]) == 0
    assert "not evaluated" in capsys.readouterr().out
    assert main([*line, "--epochs=2"]) == 0
    (tmp_path / "w" / "model.keras").unlink()
    assert main([*line, "--epochs=2", "--export"]) == 0
    assert "model.keras, of step 5" in capsys.readouterr().out
    assert (tmp_path / "w" / "model.keras").is_file()
