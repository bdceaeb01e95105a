import os
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.training import loop, recovery
from tpu_train.training import run as run_module
from tpu_train.training.recovery import (
    LossNotFiniteError,
    TrainingError,
    check_finite,
    nan_advice,
)

STEPS = 12  # in two phases, 3 per host call

# --- Damaged images ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Training and evaluation images of two classes, 12 and 2 each."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (20, 30, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "d" / split / name / f"{i:02}.png")
    return tmp_path / "d"


@pytest.mark.slow
def test_an_image_damaged_inside_is_replaced_by_the_next_of_its_class(
    folder, train_conv, log, exported_weights
):
    path, following = (folder / "train" / "cat" / f"{i:02}.png" for i in (4, 5))
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes(200) + content[700:])  # complete at both ends
    training, evaluation = open_data(folder, holdout=0.5, seed=0, max_corrupt=1)
    assert (training.examples, training.skipped) == (24, ())
    one_phase = {"phases": 1}
    result = train_conv(data=training, evaluation=evaluation, changes=one_phase)
    assert f"{path} cannot be decoded (" in log()
    assert f"training on {following} instead, resuming after step 0" in log()
    path.write_bytes(following.read_bytes())
    training, evaluation = open_data(folder, holdout=0.5, seed=0)
    expected = train_conv("expected", data=training, evaluation=evaluation, changes=one_phase)
    for a, b in zip(exported_weights(result), exported_weights(expected)):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_image_that_is_oversampled_counts_once(folder, train_conv, log):
    """Its copies follow each other: none of them replaces another one."""
    for i in range(4, 12):
        (folder / "train" / "cat" / f"{i:02}.png").unlink()
    path, following = (folder / "train" / "cat" / f"{i:02}.png" for i in (1, 2))
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes(200) + content[700:])
    training, evaluation = open_data(folder, holdout=0.5, seed=0, max_corrupt=1)
    changes = {"oversample": True, "phases": 1, "epochs": 1}
    train_conv(data=training, evaluation=evaluation, changes=changes)
    (line,) = [line for line in log().splitlines() if "cannot be decoded" in line]
    assert f"training on {following} instead, resuming after step 0" in line


def test_more_damaged_images_than_allowed_end_the_run(folder, train_conv):
    path = folder / "train" / "cat" / "04.png"
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes(200) + content[700:])
    training, evaluation = open_data(folder, holdout=0.5, seed=0, max_corrupt=0)
    with pytest.raises(TrainingError, match=r"1 images at or after step 0 .*04\.png"):
        train_conv(data=training, evaluation=evaluation)


# --- NaN losses ----------------------------------------------------------------------------------


@pytest.fixture
def nan_at(monkeypatch):
    """nan_at(step, ...): the update of these steps makes all weights NaN."""
    learning_rate = loop.learning_rate

    def nan_at(*steps):
        def rate(recipe, phase, step, **options):
            value = learning_rate(recipe, phase, step, **options)
            bad = tf.reduce_any([tf.equal(step, tf.cast(s, step.dtype)) for s in steps or (-1,)])
            return tf.where(bad, float("nan"), value)

        monkeypatch.setattr(loop, "learning_rate", rate)

    return nan_at


def test_nan_steps_are_skipped_and_stay_skipped_after_a_resume(
    train_conv, nan_at, records, log, exported_weights, stop_at
):
    nan_at(4)
    skipping = {"on_nan": "skip", "save_minutes": 0, "changes": {"phases": 1}}
    uninterrupted = train_conv("uninterrupted", **skipping)
    assert "loss is NaN or Inf in steps 3-5: skipping them and resuming after step 3" in log()
    assert [r["step"] for r in records("uninterrupted")] == [3, 9, 12]
    assert all(np.isfinite(w).all() for w in exported_weights(uninterrupted))

    with pytest.raises(StoppedError):
        train_conv("stopped", **skipping, stop=stop_at(2))  # after the rollback
    assert [r["step"] for r in records("stopped")] == [3, 9]
    resumed = train_conv("stopped", **skipping)
    assert "resuming after step 9" in log()
    assert "skipping" not in log()
    for a, b in zip(exported_weights(resumed), exported_weights(uninterrupted)):
        np.testing.assert_array_equal(a, b)
    losses = [[r["loss"] for r in records(w)] for w in ("stopped", "uninterrupted")]
    assert losses[0] == losses[1]


def test_a_rollback_removes_the_records_of_repeated_steps(train_conv, nan_at, records, log):
    """There is no checkpoint after step 0, so steps 0 to 2 are repeated."""
    nan_at(4)
    train_conv(on_nan="skip", changes={"phases": 1})
    assert "in steps 3-5: skipping them and resuming after step 0" in log()
    assert [r["step"] for r in records()] == [3, 9, 12]


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 11])
def test_nan_weights_after_a_phases_last_step_are_not_saved(
    train_conv, nan_at, log, exported_weights, step
):
    """The loss of that step is finite, the weights after it are not."""
    nan_at(step)
    if step == STEPS - 1:
        with pytest.raises(TrainingError, match="NaN or Inf"):
            train_conv()
    result = train_conv(on_nan="skip", overwrite=True)
    assert f"in steps {step}-{step}: skipping them" in log()
    assert all(np.isfinite(w).all() for w in exported_weights(result))


def test_a_nan_ends_the_run_with_advice_and_it_can_be_resumed(
    train_conv, nan_at, records, log, tmp_path
):
    nan_at(7)
    with pytest.raises(TrainingError, match=r"loss is nan.*phase 2, 36 px.*--learning_rate \(now"):
        train_conv()
    assert os.listdir(tmp_path / "run" / "checkpoints")
    nan_at()
    train_conv()
    assert "resuming after step 6" in log()
    assert [r["step"] for r in records()] == [3, 6, 9, 12]


class FakeRun:
    """A run whose latest checkpoint, of step 6, has a given history."""

    def __init__(self, saved=None, on_nan="skip", loss_scale=None):
        self.on_nan, self.lines = on_nan, []
        self.recipe = types.SimpleNamespace(learning_rate=0.1)
        self.state = types.SimpleNamespace(variables=[], loss_scale=loss_scale)
        self.metrics = types.SimpleNamespace(log=self.lines.append, roll_back=lambda step: None)
        restored = None
        if saved is not None:
            restored = types.SimpleNamespace(step=6, extra_state=saved.to_json())
        self.checkpoints = types.SimpleNamespace(
            folder="checkpoints", restore_latest=lambda variables, log: restored
        )


PHASE = types.SimpleNamespace(number=2, image_size=36)


def skip(run, history, first=9, end=12):
    error = LossNotFiniteError(first, end, "The loss is nan")
    _, step, history = recovery.recover(run, PHASE, history, error)
    return step, history


def test_a_rollback_returns_the_saved_history_with_all_skipped_steps():
    """The saved one may be older than an earlier rollback."""
    history = recovery.TrainingHistory(
        skipped_steps=[[3, 6]], accumulation=4, evaluations=[{"step": 9, "ema": 1, "non_ema": 1}]
    )
    step, restored = skip(FakeRun(recovery.TrainingHistory(accumulation=2)), history)
    assert step == 6
    assert restored == recovery.TrainingHistory(skipped_steps=[[3, 6], [9, 12]], accumulation=2)


def test_too_many_rollbacks_end_the_run():
    count = recovery.MAX_ROLLBACKS
    history = recovery.TrainingHistory(skipped_steps=[[3 * i, 3 * i + 3] for i in range(count)])
    message = f"NaN or Inf in steps 60-62, after {count} times that steps were skipped"
    with pytest.raises(TrainingError, match=message):
        skip(FakeRun(history), history, 60, 63)


def test_a_run_ends_if_its_checkpoint_does_not_advance():
    history = recovery.TrainingHistory(skipped_steps=[[0, 3], [6, 9], [9, 12]])
    run = FakeRun(history)
    message = "in steps 12-14, after 2 times that steps were skipped since the last .*of step 6"
    with pytest.raises(TrainingError, match=message):
        skip(run, history, 12, 15)
    assert "--on_nan" not in nan_advice(run, PHASE, "NaN")
    run.on_nan = "stop"
    assert "or give --on_nan=skip" in nan_advice(run, PHASE, "NaN")


def test_without_a_checkpoint_there_is_no_rollback():
    with pytest.raises(TrainingError, match="no checkpoint to roll back to: the disk may be full"):
        skip(FakeRun(), recovery.TrainingHistory())


@pytest.mark.parametrize(
    ("sums", "loss_scale", "finite"),
    [
        ([3.0, 1.0, 2.0], None, True),
        ([np.nan, 1.0, 2.0], None, False),
        ([3.0, 1.0, np.inf], None, False),
        ([3.0, 1.0, np.inf], "float16", True),  # the loss scale adapts
        ([np.inf, 1.0, 2.0], "float16", False),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_is_an_error(sums, loss_scale, finite):
    run = FakeRun(loss_scale=loss_scale)
    if finite:
        check_finite(run, PHASE, 3, 6, np.asarray(sums))
        return
    with pytest.raises(LossNotFiniteError, match=r"at step 5 \(phase 2, 36 px\): ") as error:
        check_finite(run, PHASE, 3, 6, np.asarray(sums))
    assert (error.value.first_step, error.value.end_step) == (3, 6)


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def out_of_memory(monkeypatch):
    """out_of_memory(step, up_to=1): the host call with `step` fails with so few accumulation steps.

    Returns (phase number, accumulation steps) of all traces.
    """
    trace_steps = loop.trace_steps

    def out_of_memory(*steps, up_to=1):
        traces = []

        def trace(spec, batches):
            run_steps = trace_steps(spec, batches)
            traces.append((spec.phase.number, spec.phase.accumulation))

            def run(batches, first_step, count):
                fails = any(0 <= s - first_step.numpy() < count.numpy() for s in steps)
                if fails and spec.phase.accumulation <= up_to:
                    raise tf.errors.ResourceExhaustedError(None, None, "no memory, injected")
                return run_steps(batches, first_step, count)

            return run

        monkeypatch.setattr(loop, "trace_steps", trace)
        return traces

    return out_of_memory


# With groups, batch statistics do not depend on the number of accumulation steps.
GROUPS = {"batch_norm_group_size": 4, "mixup_first": 0.2, "cutmix_last": 0.5}
ACCUMULATE = {**GROUPS, "gradient_accumulation_first": 2, "gradient_accumulation_last": 2}


def test_out_of_memory_resumes_with_accumulation_and_the_same_losses(
    train_conv, out_of_memory, records, log
):
    traces = out_of_memory(6)
    train_conv("recovered", changes=GROUPS)
    assert traces == [(1, 1), (2, 1), (2, 2)]
    assert (
        "out of memory at 36 px with a batch of 8: using 2 gradient-accumulation steps from now "
        "on, resuming after step 6" in log()
    )
    out_of_memory()
    train_conv("one", changes=GROUPS)
    recovered, one = ([r["loss"] for r in records(w)] for w in ("recovered", "one"))
    assert recovered == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_accumulation_steps(
    train_conv, out_of_memory, records, log, stop_at, exported_weights
):
    traces = out_of_memory(3)
    with pytest.raises(StoppedError):  # at the call after 6 steps
        train_conv("stopped", changes=GROUPS, stop=stop_at(3))
    assert traces == [(1, 1), (1, 2)]
    assert "resuming after step 0" in log()  # the only checkpoint
    resumed = train_conv("stopped", changes=GROUPS)
    assert traces == [(1, 1), (1, 2), (2, 2)]
    assert "out of memory" not in log()
    assert [r["step"] for r in records("stopped")] == [3, 6, 9, 12]
    out_of_memory()
    expected = train_conv("expected", changes=ACCUMULATE)
    for a, b in zip(exported_weights(resumed), exported_weights(expected)):
        np.testing.assert_array_equal(a, b)


def test_a_smaller_batch_of_a_later_phase_is_divided_as_far_as_it_can_be(
    train_conv, out_of_memory, records
):
    traces = out_of_memory(0, up_to=2)
    train_conv(changes={"batch_size_first": 8, "batch_size": 6, "mixup_last": 0.2})
    assert traces == [(1, 1), (1, 2), (1, 4), (2, 3)]
    assert all(np.isfinite(r["loss"]) for r in records())


def test_a_batch_that_cannot_be_divided_further_is_an_error(train_conv, out_of_memory, tmp_path):
    traces = out_of_memory(6, up_to=99)
    with pytest.raises(TrainingError, match=r"phase 2 at 36 px.*lower --batch_size.*is kept"):
        train_conv(changes={"mixup_last": 0.0})
    assert traces == [(1, 1), (2, 1), (2, 2), (2, 4), (2, 8)]
    assert os.listdir(tmp_path / "run" / "checkpoints")


def test_an_evaluation_that_exhausts_the_memory_is_not_taken_for_a_step(
    train_conv, out_of_memory, monkeypatch
):
    def make_evaluation(*_):
        def evaluate():
            raise tf.errors.ResourceExhaustedError(None, None, "no memory, injected")

        return evaluate

    monkeypatch.setattr(run_module, "make_evaluation", make_evaluation)
    traces = out_of_memory()
    with pytest.raises(TrainingError, match="in the evaluation of 8 images of 32 px at once"):
        train_conv()
    assert traces == [(1, 1)]


# --- workers -------------------------------------------------------------------------------------


def test_a_lost_worker_is_reported_with_tensorflows_reason(monkeypatch):
    text = "Collective ops is aborted by: worker 1 is down\nmore"
    failure = tf.errors.UnavailableError(None, None, text)
    for workers, kind in ((2, TrainingError), (1, tf.errors.UnavailableError)):
        monkeypatch.setattr(recovery, "worker_count", lambda strategy, n=workers: n)
        with pytest.raises(kind) as error, recovery.reporting_lost_workers(None, "gs://w/ckpt"):
            raise failure
        if workers > 1:
            reason = "Another worker is gone (Collective ops is aborted by: worker 1"
            assert str(error.value).startswith(reason)
            assert "the checkpoints are in gs://w/ckpt" in str(error.value)
