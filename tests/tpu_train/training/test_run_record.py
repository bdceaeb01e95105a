import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from tpu_train.callbacks.records import Callback
from tpu_train.checkpointing.preemption import CompleteError, StoppedError
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import export_stopped
from tpu_train.training.run_record import plan_epochs

MORE = {"epochs": 6}


def test_an_extension_keeps_the_first_epochs_and_accepts_no_fewer():
    assert plan_epochs({"planned_epochs": [30, 50]}, 50) == [30, 50]
    assert plan_epochs({"planned_epochs": [30, 50]}, 60) == [30, 50, 60]
    assert plan_epochs({"planned_epochs": [30]}, 20) == [20]
    with pytest.raises(ValueError, match="extended to 50 epochs, now 30: give --epochs=50"):
        plan_epochs({"planned_epochs": [30, 50]}, 30)


def test_a_finished_run_is_extended_exactly(
    train_conv, exported_weights, stop_at, records, tmp_path
):
    """The schedule is that of all epochs; a stopped extension resumes to the same weights."""
    first = exported_weights(train_conv("one", keep_checkpoints=True))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    extended = train_conv("one", changes=MORE, keep_checkpoints=True)
    assert [p.steps for p in extended.phases] == [6, 6, 6]
    assert [r["step"] for r in records("one")] == [3, 6, 9, 12, 15, 18]
    rates = {r["step"]: r["learning_rate"] for r in records("one")}
    assert rates[12] < rates[15]  # the cosine of 6 epochs is higher than the end of that of 4
    assert not np.array_equal(exported_weights(extended)[0], first[0])
    record = json.loads((tmp_path / "one" / "recipe.json").read_text())
    assert record["planned_epochs"] == [4, 6]
    assert (record["recipe"]["epochs"], record["run"]["epochs"]) == (6, 4)

    with pytest.raises(StoppedError, match="after step 15"):
        train_conv("two", changes=MORE, stop=stop_at(0))
    resumed = train_conv("two", changes=MORE)
    for a, b in zip(exported_weights(resumed), exported_weights(extended)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(CompleteError):
        train_conv("two", changes=MORE)
    with pytest.raises(ValueError, match=r"checkpoints were removed.*--weights=.*model\.keras"):
        train_conv("two", changes={"epochs": 8})


def test_only_a_finished_run_is_extended(train_conv, stop_at):
    with pytest.raises(StoppedError):
        train_conv(stop=stop_at(2))
    with pytest.raises(
        ValueError, match="has not finished its 4 epochs: resume it with --epochs=4"
    ):
        train_conv(changes=MORE)


def test_a_stopped_run_is_exported_and_can_be_resumed(
    train_conv, conv_recipe, source, exported_weights, stop_at, tmp_path
):
    workdir, strategy, one_phase = tmp_path / "run", make_strategy("cpu"), {"phases": 1}
    recipe = dataclasses.replace(conv_recipe, **one_phase)
    with pytest.raises(ValueError, match="has no checkpoint to export"):
        export_stopped(recipe, source, source, workdir, strategy)
    with pytest.raises(StoppedError):
        train_conv(changes=one_phase, stop=stop_at(2))
    path, step = export_stopped(recipe, source, source, workdir, strategy)
    assert (path, step) == (str(workdir / "model.keras"), 6)
    assert (workdir / "labels.txt").read_text().split() == list("abcd")
    resumed, whole = (train_conv(w, changes=one_phase) for w in ("run", "whole"))
    for a, b in zip(exported_weights(resumed), exported_weights(whole)):
        np.testing.assert_array_equal(a, b)


def test_an_export_of_a_run_that_trains_is_another_file(train_conv, conv_recipe, source, tmp_path):
    """The run writes model.keras itself, at any moment."""
    workdir, exported = tmp_path / "run", []

    def export(record):
        if record["event"] == "checkpoint" and record["step"] == 6:
            strategy = make_strategy("cpu")
            exported.append(export_stopped(conv_recipe, source, source, workdir, strategy))
            exported.append((workdir / "model.keras").exists())

    train_conv(callback=Callback(export, "test"))
    assert exported == [(str(workdir / "checkpoint.keras"), 6), False]
    assert keras.saving.load_model(workdir / "checkpoint.keras", compile=False)
    assert (workdir / "model.keras").exists()


def test_a_finished_run_with_early_stopping_is_complete(train_conv):
    options = {"changes": {"early_stopping_patience": 9, "epochs": 2}, "eval_epochs": 1}
    train_conv(**options)
    with pytest.raises(CompleteError, match="is complete"):
        train_conv(**options)
    with pytest.raises(ValueError, match="already contains a run"):
        train_conv(**{**options, "eval_epochs": 2})
