import dataclasses
import gc
import types
import weakref

import keras
import numpy as np
import pytest

from tpu_train.checkpointing import storage
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.training import loop, recovery
from tpu_train.training import run as run_module
from tpu_train.training.loop import segments
from tpu_train.training.recovery import TrainingError
from tpu_train.training.run_context import TrainingHistory

# --- steps and phases ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [
        ([], [(10, 40)]),
        ([[20, 25]], [(10, 20), (25, 40)]),
        ([[0, 5], [40, 45]], [(10, 40)]),
        ([[5, 15], [35, 50]], [(15, 35)]),
        ([[30, 35], [20, 30]], [(10, 20), (35, 40)]),
        ([[10, 40]], []),
        ([[0, 100]], []),
        ([[12, 20], [14, 16]], [(10, 12), (20, 40)]),
    ],
)
def test_segments_are_the_steps_that_are_not_skipped(skipped, expected):
    assert segments(10, 40, skipped) == expected
    steps = {s for first, end in expected for s in range(first, end)}
    assert steps == set(range(10, 40)) - {s for a, b in skipped for s in range(a, b)}


def test_phases_of_different_batch_sizes_read_the_same_epochs(train_conv, records):
    train_conv(changes={"batch_size_first": 4, "batch_size": 8})
    # Two epochs of 24 images in each phase: 12 steps of 4 and 6 of 8.
    assert [r["step"] for r in records()] == [3, 6, 9, 12, 15, 18]
    assert [r["phase"] for r in records()] == [1, 1, 1, 1, 2, 2]
    assert all(0 <= r["accuracy"] <= 1 for r in records())


def test_the_graph_of_a_phase_is_freed_at_its_end(train_conv, monkeypatch):
    graphs, alive, trace_steps = [], [], loop.trace_steps

    def trace(spec, batches):
        gc.collect()
        alive.append(sum(graph() is not None for graph in graphs))
        run_steps = trace_steps(spec, batches)
        graphs.append(weakref.ref(run_steps.graph))
        return run_steps

    monkeypatch.setattr(loop, "trace_steps", trace)
    train_conv(changes={"epochs": 2})
    assert alive == [0, 0]


def test_min_steps_and_random_image_sizes(train_conv, records):
    changes = {
        "epochs": 1,
        "min_steps": 9,
        "phases": 3,
        "progressive_schedule": "random",
        "image_size_last": 64,
    }
    result = train_conv(changes=changes)
    assert [r["step"] for r in records()] == [3, 6, 9]
    sizes = [p.image_size for p in result.phases]
    assert len(set(sizes)) > 1
    assert all(32 <= size <= 64 for size in sizes)


@pytest.mark.every_stack
def test_a_run_stopped_three_times_ends_with_the_same_weights(
    train_conv, exported_weights, stop_at, log, records
):
    """In the first phase, at its end, and in the second."""
    expected = exported_weights(train_conv("uninterrupted"))
    for step, call in ((3, 1), (6, 0), (9, 0)):
        with pytest.raises(StoppedError, match=f"Stopped after step {step} .* resumes the run"):
            train_conv("stopped", stop=stop_at(call))
    resumed = train_conv("stopped")
    assert "resuming after step 9" in log()
    for a, b in zip(exported_weights(resumed), expected):
        np.testing.assert_array_equal(a, b)
    losses = [[(r["step"], r["loss"]) for r in records(w)] for w in ("uninterrupted", "stopped")]
    assert losses[0] == losses[1]


# --- evaluations ---------------------------------------------------------------------------------


@pytest.fixture
def accuracies(monkeypatch):
    """accuracies(0.5, ...): the EMA accuracies of the next evaluations; returns those left."""

    def accuracies(*values):
        remaining = list(values)

        def make_evaluation(strategy, models, source, recipe):
            return lambda: {"ema": remaining.pop(0), "non_ema": 0.25}

        monkeypatch.setattr(run_module, "make_evaluation", make_evaluation)
        return remaining

    return accuracies


def test_evaluates_every_eval_epochs_and_at_the_end_of_phases(train_conv, accuracies, records):
    remaining = accuracies(0.1, 0.2, 0.3, 0.4, 0.5)
    result = train_conv(eval_epochs=4 / 3)  # of 3 steps
    assert [e["step"] for e in result.evaluations] == [4, 6, 8, 12]
    assert remaining == [0.5]
    assert [r["step"] for r in records()] == [3, 4, 6, 8, 11, 12]
    assert result.accuracy == 0.4
    assert result.best["step"] == 12


@pytest.mark.slow
def test_the_best_model_is_exported_and_survives_a_resume(
    train_conv, accuracies, exported_weights, stop_at, tmp_path
):
    one_phase = {"changes": {"phases": 1}, "eval_epochs": 1}
    accuracies(0.2, 0.9, 0.3, 0.4)
    result = train_conv("run", **one_phase)
    assert result.best == {"step": 6, "ema": 0.9, "non_ema": 0.25}
    assert sorted(p.name for p in (tmp_path / "run").glob("*.keras")) == [
        "best.keras",
        "model.keras",
    ]
    best = keras.saving.load_model(tmp_path / "run" / "best.keras", compile=False)

    accuracies(0.2, 0.9, 0.3)
    with pytest.raises(StoppedError):  # at step 9, after the best evaluation
        train_conv("stopped", **one_phase, stop=stop_at(3))
    accuracies(0.4, 0.4)
    resumed = train_conv("stopped", **one_phase)
    assert resumed.best["step"] == 6
    after_resume = keras.saving.load_model(tmp_path / "stopped" / "best.keras", compile=False)
    for a, b, last in zip(best.get_weights(), after_resume.get_weights(), exported_weights(result)):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, last)


def test_an_extension_keeps_the_best_model_of_the_finished_run(
    train_conv, accuracies, exported_weights, tmp_path
):
    accuracies(0.9)
    first = exported_weights(train_conv(changes={"phases": 1}, keep_checkpoints=True))
    accuracies(0.4)
    result = train_conv(changes={"phases": 1, "epochs": 6})
    assert result.best["step"] == 12
    best = keras.saving.load_model(tmp_path / "run" / "best.keras", compile=False)
    for a, b in zip(best.get_weights(), first):
        np.testing.assert_array_equal(a, b)


def test_a_resumed_run_knows_whether_its_weights_are_the_best(conv_recipe):
    run = types.SimpleNamespace(recipe=conv_recipe)
    history = TrainingHistory(evaluations=[{"step": 3, "ema": 0.4}, {"step": 6, "ema": 0.5}])
    assert loop._is_at_best(run, 6, history)
    assert not loop._is_at_best(run, 9, history)  # trained on since
    history.evaluations.append({"step": 9, "ema": 0.1})
    assert not loop._is_at_best(run, 9, history)
    damaged = TrainingHistory(evaluations=[{"step": 3, "ema": 0.4, "loss_ema": float("nan")}])
    assert not loop._is_at_best(run, 3, damaged)


def test_there_is_no_best_model_if_the_last_is_as_good(train_conv, accuracies, tmp_path):
    accuracies(0.2, 0.9, 0.9, 0.9)
    result = train_conv(changes={"phases": 1}, eval_epochs=1)
    assert not (tmp_path / "run" / "best.keras").exists()
    assert result.best["step"] == 12


@pytest.mark.slow
def test_an_evaluation_with_nan_is_never_the_best(
    train_conv, losses, exported_weights, log, tmp_path
):
    nan, one_phase = float("nan"), {"changes": {"phases": 1}, "eval_epochs": 1}
    losses(2, nan, 3, 4)  # by step 3, 6, 9, 12
    result = train_conv("run", **one_phase)
    assert result.best["step"] == 3
    assert "the evaluation after step 6 gives NaN or Inf: these weights are not" in log()
    best = keras.saving.load_model(result.best_path, compile=False).get_weights()
    losses(nan, 2, 3, 4)
    assert train_conv("first", **one_phase).best["step"] == 6
    losses(2, 3, 4, nan)
    with pytest.raises(TrainingError, match=r"after step 12.*loss nan.*best.keras has .* step 3,"):
        train_conv("last", **one_phase)
    files = sorted(path.name for path in (tmp_path / "last").glob("*.keras"))
    assert files == ["best.keras"]
    kept = keras.saving.load_model(tmp_path / "last" / "best.keras", compile=False).get_weights()
    for a, b in zip(kept, best):
        np.testing.assert_array_equal(a, b)
    result = train_conv("early", eval_epochs=1, changes={**EARLY, "early_stopping_patience": 9})
    assert result.exported["step"] == 3  # the best model is exported, not the last


# --- early stopping, plateaus, phases that freeze -------------------------------------------------

EARLY = {"early_stopping_patience": 1, "early_stopping_metric": "loss", "phases": 1}
PLATEAU = {
    **{"learning_rate_schedule": "plateau", "plateau_patience": 1, "decay_factor": 0.5},
    **{"early_stopping_metric": "accuracy", "warmup_epochs": 0, "phases": 1},
}
HEAD_FIRST = {"freeze": "conv+bn,none", "learning_rate": 0.03, "layer_decay": 0.5}


@pytest.fixture
def losses(monkeypatch):
    """losses(3, 2, ...): the losses of the evaluations at the host calls of a run, by step."""
    run_evaluate = loop._evaluate

    def losses(*values):
        def evaluate(run, phase, step, history):
            value = values[step // 3 - 1]
            fake = lambda: {"ema": 0.5 - value / 9, "non_ema": 0.25, "loss_ema": value}  # noqa: E731
            return run_evaluate(dataclasses.replace(run, evaluate=fake), phase, step, history)

        monkeypatch.setattr(loop, "_evaluate", evaluate)

    return losses


def test_early_stopping_ends_a_phase_and_exports_the_best_model(
    train_conv, losses, exported_weights, stop_at, tmp_path
):
    """Also if the run is stopped at the best evaluation, and if it is finished twice."""
    losses(2, 1, 3, 0)
    result = train_conv(changes=EARLY, eval_epochs=1, keep_checkpoints=True)
    assert [e["step"] for e in result.evaluations] == [3, 6, 9]
    assert (result.best["step"], result.exported["loss_ema"]) == (6, 1)
    assert result.phases[0].steps == 9
    exported = exported_weights(result)
    last = storage.latest(str(tmp_path / "run" / "checkpoints"))
    assert last.step == 9
    assert not any(np.array_equal(exported[0], value) for value in last.values)
    with pytest.raises(StoppedError, match="after step 6"):
        train_conv("stopped", changes=EARLY, eval_epochs=1, stop=stop_at(2))
    with pytest.raises(ValueError, match=r"a different run \(eval_epochs 1, now 2\)"):
        train_conv("stopped", changes=EARLY, eval_epochs=2)
    for _ in range(2):
        resumed = train_conv("stopped", changes=EARLY, eval_epochs=1, keep_checkpoints=True)
        assert resumed.phases[0].steps == 9
        for a, b in zip(exported_weights(resumed), exported):
            np.testing.assert_array_equal(a, b)


def test_an_extension_that_stops_early_exports_the_best_model(train_conv, losses, exported_weights):
    losses(4, 3, 2, 1, 5, 6)
    first = train_conv(changes=EARLY, eval_epochs=1, keep_checkpoints=True)
    expected = exported_weights(first)
    result = train_conv(changes={**EARLY, "epochs": 6}, eval_epochs=1)
    assert (result.best["step"], result.exported["step"]) == (12, 12)
    for a, b in zip(exported_weights(result), expected):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_ends_a_phase_where_skipped_steps_begin(
    train_conv, accuracies, records, monkeypatch
):
    """After the rollback, the evaluation of step 6 gives less than before, as on a GPU it may."""
    run_check, save, raised = recovery.check_finite, storage.save, []

    def check_finite(run, phase, first_step, end_step, sums):
        if first_step == 6 and not raised:
            raised.append(first_step)
            raise recovery.LossNotFiniteError(first_step, end_step, "")
        run_check(run, phase, first_step, end_step, sums)

    def full_disk(folder, checkpoint):
        if checkpoint.step == 6 and not raised:
            raise OSError("No space left on device")
        save(folder, checkpoint)

    monkeypatch.setattr(recovery, "check_finite", check_finite)
    monkeypatch.setattr(storage, "save", full_disk)
    accuracies(0.5, 0.6, 0.4, 0.3)
    early = {"early_stopping_patience": 1, "early_stopping_metric": "accuracy", "phases": 1}
    result = train_conv(changes=early, eval_epochs=1, on_nan="skip")
    assert [(e["step"], e["ema"]) for e in result.evaluations] == [(3, 0.5), (6, 0.4)]
    assert [r["step"] for r in records()] == [3, 6]


def test_early_stopping_continues_with_the_next_phase(train_conv, losses, records):
    early = {**EARLY, "phases": 2, "epochs": 8}
    losses(2, 3, 3, 3, 9, 8, 9, 9)
    result = train_conv(changes=early, eval_epochs=1)
    assert [p.steps for p in result.phases] == [6, 9]
    assert [r["step"] for r in records()] == [3, 6, 15, 18, 21]
    assert result.best["step"] == 3


def test_plateaus_lower_the_rate_and_a_resumed_run_knows_them(
    train_conv, losses, records, exported_weights, stop_at
):
    losses(2, 2, 1, 1)
    expected = train_conv("uninterrupted", changes=PLATEAU, eval_epochs=1)
    rates = [r["learning_rate"] for r in records("uninterrupted")]
    np.testing.assert_allclose(rates, np.array([1, 1, 0.5, 0.5]) * 8 / 256, rtol=1e-6)
    with pytest.raises(StoppedError, match="after step 6"):
        train_conv("stopped", changes=PLATEAU, eval_epochs=1, stop=stop_at(2))
    resumed = train_conv("stopped", changes=PLATEAU, eval_epochs=1)
    for a, b in zip(exported_weights(resumed), exported_weights(expected)):
        np.testing.assert_array_equal(a, b)
    assert [r["learning_rate"] for r in records("stopped")] == rates


def test_phases_that_freeze_resume_to_the_same_weights(train_conv, exported_weights, stop_at, log):
    """Stopped while the frozen layers are computed, in their phase, behind it, and in the next.

    test_feature_cache.py and test_resume.py train on two devices.
    """
    expected = exported_weights(train_conv("one", changes=HEAD_FIRST))
    assert "layer_decay 0.5 is not used: " in log()
    assert log().count("computing the outputs of the frozen layers once, for 24 images") == 1
    for step, call in ((0, 1), (3, 3), (6, 3), (9, 0)):  # the outputs are three batches
        with pytest.raises(StoppedError, match=f"after step {step}"):
            train_conv("stopped", changes=HEAD_FIRST, stop=stop_at(call))
    resumed = exported_weights(train_conv("stopped", changes=HEAD_FIRST))
    for a, b in zip(resumed, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("changes", [EARLY, PLATEAU])
def test_settings_that_need_evaluations_ask_for_them(train_conv, changes):
    with pytest.raises(ValueError, match=r"needs evaluations during a phase: give --eval_epochs=1"):
        train_conv(changes=changes)


def test_without_evaluation_images_a_run_trains_on_everything(train_conv, source, log):
    nothing = source.take(np.arange(0))
    result = train_conv(changes={"phases": 1}, evaluation=nothing)
    assert result.accuracy is None
    assert "no evaluation images" in log()
    with pytest.raises(ValueError, match=r"needs evaluation images: give --holdout=0\.2"):
        train_conv("early", changes=EARLY, evaluation=nothing, eval_epochs=1)


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_images_of_several_labels_train_with_either_loss(train_conv, source, loss):
    """Each has its color's label, and the odd ones the last class as well."""
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
    result = train_conv(data=several, evaluated=True, changes=changes)
    model = keras.saving.load_model(result.model_path, compile=False)
    assert model.layers[-1].activation.__name__ == loss
    assert result.accuracy >= 0.75
