"""A network of a convolution and a batch norm, so that a whole run takes a second or two."""

import dataclasses
import json
import os
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.checkpointing import manager
from tpu_train.checkpointing.manager import StoppedError
from tpu_train.recipes.table import RECIPES
from tpu_train.training import loop
from tpu_train.training import run as training
from tpu_train.training.distribution import make_strategy
from tpu_train.training.loop import TrainingError, workers

STEPS = 12  # in two phases, 3 a host call


def small(weights, input_tensor, classes, classifier_activation):
    """A network with keras.applications' arguments."""
    assert weights is None
    x = keras.layers.Conv2D(4, 3, strides=4, use_bias=False, name="conv")(input_tensor)
    x = keras.layers.BatchNormalization(momentum=0.8, name="bn")(x)
    x = keras.layers.Activation("swish")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, name="top")(x)
    x = keras.layers.Dense(classes, activation=classifier_activation, name="head")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


@pytest.fixture
def go(source, monkeypatch, tmp_path):
    """go(workdir, ...) trains `small`; what it said is in `tmp_path / "log"`."""
    module = types.ModuleType("small_networks")
    module.small = small
    monkeypatch.setitem(sys.modules, "small_networks", module)
    recipe = dataclasses.replace(
        RECIPES["digits"],
        name="small",
        model="small_networks:small",
        epochs=4,
        batch_size=8,
        phases=2,
        image_size_first=32,
        image_size_last=36,
        image_size_eval=32,
        augment="none",
        random_crop_min_area=1.0,
        zero_init_classifier=False,
        steps_per_loop=3,
        learning_rate=1.0,
    )

    def go(workdir="run", *, data=None, device="cpu", changes=None, **how):
        with open(tmp_path / "log", "w") as stream:
            return training.train(
                dataclasses.replace(recipe, **(changes or {})),
                data or source,
                data or source,
                tmp_path / workdir,
                make_strategy(device),
                stream=stream,
                **how,
            )

    return go


@pytest.fixture
def log(tmp_path):
    return lambda: (tmp_path / "log").read_text()


@pytest.fixture
def records(tmp_path):
    """records(workdir): of its training steps."""

    def records(workdir="run"):
        lines = (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if "loss" in r]

    return records


def weights(result):
    return keras.saving.load_model(result.model_path, compile=False).get_weights()


def at_calls(calls):
    """A `stop` that says so at the calls of these numbers; call 0 is before the first step."""
    asked = []

    def stop():
        asked.append(0)
        return "enough" if len(asked) - 1 in calls else ""

    return stop


# --- a loss that is no number ------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch):
    """poison(step, ...): the update of these steps makes all weights NaN, whatever it is given."""
    real = loop.learning_rate

    def poison(*steps):
        def rate(recipe, phase, step, **about):
            found = real(recipe, phase, step, **about)
            bad = tf.reduce_any([tf.equal(step, tf.cast(s, step.dtype)) for s in steps or (-1,)])
            return tf.where(bad, float("nan"), found)

        monkeypatch.setattr(loop, "learning_rate", rate)

    return poison


def test_steps_that_make_the_loss_nan_are_left_out_and_a_resume_leaves_them_out_again(
    go, poison, records, log, tmp_path
):
    poison(4)
    whole = go("whole", on_nan="skip", save_minutes=0)
    assert "no number in steps 3 to 5: they are left out; going on after step 3" in log()
    assert [r["step"] for r in records("whole")] == [3, 9, 12]
    assert all(np.isfinite(w).all() for w in weights(whole))

    with pytest.raises(StoppedError):
        go("cut", on_nan="skip", save_minutes=0, stop=at_calls({3}))  # after the rollback
    assert [r["step"] for r in records("cut")] == [3, 9]
    rest = go("cut", on_nan="skip", save_minutes=0)
    assert "going on after step 9" in log()
    assert "left out" not in log()
    for a, b in zip(weights(rest), weights(whole)):
        np.testing.assert_array_equal(a, b)
    assert [r["loss"] for r in records("cut")] == [r["loss"] for r in records("whole")]


def test_a_rollback_over_saved_steps_takes_their_records_back(go, poison, records, log):
    """No checkpoint since step 0: steps 0 to 2 are done again, and reach the same."""
    poison(4)
    go(on_nan="skip")
    assert "in steps 3 to 5: they are left out; going on after step 0" in log()
    assert [r["step"] for r in records()] == [3, 9, 12]


@pytest.mark.parametrize("step", [5, 11])
def test_the_last_step_of_a_phase_can_be_the_one_that_is_left_out(go, poison, records, log, step):
    """Its loss is a number; what it leaves is not, and is not saved."""
    poison(step)
    if step == STEPS - 1:
        with pytest.raises(TrainingError, match="NaN or Inf"):
            go()
    result = go(on_nan="skip", overwrite=True)
    assert f"in steps {step} to {step}: they are left out" in log()
    assert all(np.isfinite(w).all() for w in weights(result))


def test_a_nan_stops_the_run_and_its_last_checkpoint_goes_on(go, poison, records, log, tmp_path):
    poison(7)
    with pytest.raises(TrainingError, match=r"loss is nan.*phase 2, 36 px.*--learning_rate \(now"):
        go()
    assert os.listdir(tmp_path / "run" / "checkpoints")
    poison()
    go()
    assert "going on after step 6" in log()
    assert [r["step"] for r in records()] == [3, 6, 9, 12]


def test_a_run_that_is_nan_everywhere_ends_after_some_rollbacks(go, poison, monkeypatch):
    monkeypatch.setattr(manager, "MOST_ROLLBACKS", 2)
    poison(*range(STEPS))
    with pytest.raises(TrainingError, match=r"2 times that steps were skipped.*--learning_rate"):
        go(on_nan="skip")


# --- memory ------------------------------------------------------------------------------------


@pytest.fixture
def full_memory(monkeypatch):
    """full_memory(step, parts=1): the host call that has `step` fails while there are so few parts.

    Returns the (phase number, parts) of all traces.
    """
    real = loop.traced_steps

    def full_memory(*steps, parts=1):
        traces = []

        def traced(recipe, phase, *rest):
            run_steps = real(recipe, phase, *rest)
            traces.append((phase.number, phase.accumulation))

            def run(batches, first_step, count):
                there = any(0 <= s - first_step.numpy() < count.numpy() for s in steps)
                if there and phase.accumulation <= parts:
                    raise tf.errors.ResourceExhaustedError(None, None, "no memory, injected")
                return run_steps(batches, first_step, count)

            return run

        monkeypatch.setattr(loop, "traced_steps", traced)
        return traces

    return full_memory


GROUPS = {"batch_norm_group_size": 4, "mixup_first": 0.2, "cutmix_last": 0.5}


def test_out_of_memory_at_a_phases_start_goes_on_in_parts_with_the_same_losses(
    go, full_memory, records, log
):
    traces = full_memory(6)
    go("mended", changes=GROUPS)
    assert traces == [(1, 1), (2, 1), (2, 2)]
    assert (
        "out of memory at 36 px: from here on a batch of 8 is computed in 2 parts; going on after "
        "step 6" in log()
    )
    full_memory()
    go("whole", changes=GROUPS)
    go(
        "parts",
        changes={**GROUPS, "gradient_accumulation_first": 2, "gradient_accumulation_last": 2},
    )
    losses = {w: [r["loss"] for r in records(w)] for w in ("mended", "whole", "parts")}
    assert losses["mended"] == pytest.approx(losses["whole"], rel=1e-5)
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-5)


def test_out_of_memory_in_a_phase_is_remembered_when_the_run_is_resumed(
    go, full_memory, records, log
):
    traces = full_memory(3)
    with pytest.raises(StoppedError):  # asked after the start, 3 steps, and 6 steps in parts
        go("cut", changes=GROUPS, stop=at_calls({3}))
    assert traces == [(1, 1), (1, 2)]
    assert "going on after step 0" in log()  # no checkpoint since
    rest = go("cut", changes=GROUPS)
    assert traces == [(1, 1), (1, 2), (2, 2)]
    assert "out of memory" not in log()
    assert [r["step"] for r in records("cut")] == [3, 6, 9, 12]
    full_memory()
    parts = go(
        "parts",
        changes={**GROUPS, "gradient_accumulation_first": 2, "gradient_accumulation_last": 2},
    )
    for a, b in zip(weights(rest), weights(parts)):
        np.testing.assert_array_equal(a, b)


def test_when_no_more_parts_are_possible_the_error_says_what_to_change(go, full_memory, tmp_path):
    traces = full_memory(6, parts=99)
    with pytest.raises(TrainingError, match=r"phase 2 at 36 px.*lower --batch_size.*is kept"):
        go(changes={"mixup_last": 0.0})
    assert traces == [(1, 1), (2, 1), (2, 2), (2, 4), (2, 8)]
    assert os.listdir(tmp_path / "run" / "checkpoints")


# --- evaluations -------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """scripted(0.5, ...): what the evaluations find; counts them."""

    def scripted(*accuracies):
        found = list(accuracies)

        def make_evaluation(strategy, models, source, recipe):
            return lambda: {"averaged": found.pop(0), "raw": 0.25}

        monkeypatch.setattr(training, "make_evaluation", make_evaluation)
        return found

    return scripted


def test_evaluations_come_every_so_many_epochs_and_at_the_ends_of_phases(go, scripted, records):
    left = scripted(0.1, 0.2, 0.3, 0.4, 0.5)
    result = go(eval_epochs=4 / 3)  # of 3 steps
    assert [e["step"] for e in result.evaluations] == [4, 6, 8, 12]
    assert left == [0.5]
    assert [r["step"] for r in records()] == [3, 4, 6, 8, 11, 12]
    assert result.accuracy == 0.4
    assert result.best["step"] == 12


def test_an_earlier_better_evaluation_leaves_its_model_beside_the_last(go, scripted, tmp_path):
    scripted(0.2, 0.9, 0.3, 0.4)
    result = go("found", eval_epochs=1)
    assert result.best == {"step": 6, "averaged": 0.9, "raw": 0.25}
    assert sorted(p.suffix for p in (tmp_path / "found").glob("*.keras")) == [".keras"] * 2
    best = keras.saving.load_model(tmp_path / "found" / "best.keras", compile=False)

    scripted(0.2, 0.9, 0.9, 0.9)  # the last is as good: no other file
    whole = go("whole", eval_epochs=1)
    assert not (tmp_path / "whole" / "best.keras").exists()
    assert whole.best["step"] == 12

    scripted(0.2, 0.9, 0.3)
    with pytest.raises(StoppedError):  # at step 9, after the best: its model is still there
        go("cut", eval_epochs=1, stop=at_calls({3}))
    scripted(0.4, 0.4)
    again = go("cut", eval_epochs=1)
    assert again.best["step"] == 6
    kept = keras.saving.load_model(tmp_path / "cut" / "best.keras", compile=False)
    for a, b, last in zip(best.get_weights(), kept.get_weights(), weights(result)):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, last)


# --- phases ------------------------------------------------------------------------------------


def test_a_batch_size_that_grows_sees_every_image_once_an_epoch(go, records):
    go(changes={"batch_size_first": 4, "batch_size": 8})
    # Two epochs of 24 images in each phase: 12 steps of 4 and 6 of 8.
    assert [r["step"] for r in records()] == [3, 6, 9, 12, 15, 18]
    assert [r["phase"] for r in records()] == [1, 1, 1, 1, 2, 2]
    assert all(0 <= r["accuracy"] <= 1 for r in records())


def test_a_run_has_its_least_steps_and_sizes_can_be_random(go, records):
    changes = {
        "epochs": 1,
        "min_steps": 9,
        "phases": 3,
        "progressive_schedule": "random",
        "image_size_last": 64,
    }
    result = go(changes=changes)
    assert [r["step"] for r in records()] == [3, 6, 9]
    sizes = [p.image_size for p in result.phases]
    assert len(set(sizes)) > 1
    assert all(32 <= size <= 64 for size in sizes)


def test_one_process_is_one_worker():
    assert workers(make_strategy("cpu")) == workers(make_strategy("cpu:2")) == 1


# --- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_images_of_several_labels_train_with_either_loss(go, source, loss):
    """Each has its colour's label, and the odd ones the last class as well."""
    second = np.where(np.arange(24) % 2, 3, -1)
    several = dataclasses.replace(
        source, labels=np.stack([source.labels, second], 1).astype(np.int32)
    )
    changes = {
        "loss": loss,
        "class_weights": "balanced",
        "phases": 1,
        "epochs": 40,
        "ema_decay": 0.5,
        "learning_rate": 3.0,
    }
    result = go(data=several, changes=changes)
    model = keras.saving.load_model(result.model_path, compile=False)
    assert model.layers[-1].activation.__name__ == loss
    assert result.accuracy >= 0.75


def test_a_class_weighs_the_inverse_of_its_share():
    labels = np.array([[0, 1], [0, -1], [0, -1], [2, -1]], np.int32)
    source = types.SimpleNamespace(labels=labels, classes=("a", "b", "c", "d"))
    found = training._class_weights(source)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [5 / 12, 5 / 4, 5 / 4, 5 / 4])  # none of d: as one
    balanced = types.SimpleNamespace(labels=np.arange(6) % 3, classes=("a", "b", "c"))
    np.testing.assert_array_equal(training._class_weights(balanced), [1, 1, 1])


def test_what_cannot_work_is_told_before_anything_is_written(go, tmp_path):
    for how, why in (
        ({"on_nan": "ignore"}, "on_nan 'ignore' is not known: give stop or skip"),
        ({"eval_epochs": -1}, "eval_epochs -1 cannot work"),
        ({"changes": {"model": "nowhere:net"}}, "model 'nowhere:net' cannot be imported"),
        ({"changes": {"optimizer": "adma"}}, "Did you mean 'adamw'"),
    ):
        with pytest.raises(ValueError, match=why):
            go(**how)
        assert not (tmp_path / "run").exists()
