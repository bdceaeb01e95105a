"""When the training loop saves a checkpoint, and when it stops."""

import dataclasses
import types

import numpy as np
import pytest

from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.recipes.table import RECIPES
from tpu_train.training import loop
from tpu_train.training.run_context import TrainingHistory


class FakeManager:
    """Records the steps that are saved."""

    folder = "checkpoints"

    def __init__(self, due=False, error=None, gather=None):
        self.due, self.error, self.steps = due, error, []
        self.gather = gather or (lambda votes: np.asarray([votes]))

    def should_save(self, is_best):
        return self.due

    def save(self, step, variables, extra_state, *, is_best):
        if self.error:
            raise self.error
        self.steps.append(step)

    def describe_latest(self):
        return "The checkpoint of step 1 is kept"


def save_or_stop(manager, reason="", end_of_phase=False, history=None, **changes):
    """The log lines of a call at step 2."""
    lines = []
    run = types.SimpleNamespace(
        recipe=dataclasses.replace(RECIPES["digits"], **changes),
        checkpoints=manager,
        stop=lambda: reason,
        state=types.SimpleNamespace(variables=[]),
        metrics=types.SimpleNamespace(log=lines.append),
    )
    loop._save_or_stop(run, 2, history or TrainingHistory(), end_of_phase=end_of_phase)
    return lines


@pytest.mark.parametrize(
    ("due", "end_of_phase", "steps"),
    [(False, False, []), (True, False, [2]), (False, True, [2])],
)
def test_saves_when_due_and_at_the_end_of_a_phase(due, end_of_phase, steps):
    manager = FakeManager(due)
    assert save_or_stop(manager, end_of_phase=end_of_phase) == []
    assert manager.steps == steps


def test_saves_before_it_stops():
    manager = FakeManager()
    with pytest.raises(StoppedError, match=r"after step 2 \(SIGTERM\)\. The same command resumes"):
        save_or_stop(manager, "SIGTERM")
    assert manager.steps == [2]


def test_a_full_disk_is_logged_and_training_continues():
    manager = FakeManager(due=True, error=OSError("No space left"))
    (line,) = save_or_stop(manager)
    assert line == (
        "cannot save a checkpoint at step 2: No space left. The checkpoint of step 1 is kept"
    )


def test_a_stop_that_cannot_save_says_where_the_run_will_resume():
    manager = FakeManager(error=OSError("No space left"))
    message = r"could not be saved: No space left\. The checkpoint of step 1 is kept"
    with pytest.raises(StoppedError, match=message):
        save_or_stop(manager, "SIGINT")


def test_all_workers_stop_when_one_is_asked_to():
    manager = FakeManager(gather=lambda votes: np.asarray([votes, [1, 0]]))
    with pytest.raises(StoppedError, match=r"after step 2 \(requested on another worker\)"):
        save_or_stop(manager)
    assert manager.steps == [2]


def test_the_chief_decides_when_a_checkpoint_is_due():
    chief = FakeManager(due=False, gather=lambda votes: np.asarray([votes, [0, 1]]))
    save_or_stop(chief)
    assert not chief.steps
    second = FakeManager(due=False, gather=lambda votes: np.asarray([[0, 1], votes]))
    save_or_stop(second)
    assert second.steps == [2]


def test_the_best_checkpoint_is_best_in_the_metric_of_the_run():
    """As best.keras is: a checkpoint of other weights would give another best.keras."""
    before = {"step": 1, "ema": 0.8, "loss_ema": 2.0}
    evaluations = {
        "loss": [before, {"step": 2, "ema": 0.7, "loss_ema": 1.0}],
        "accuracy": [before, {"step": 2, "ema": 0.9, "loss_ema": 3.0}],
    }
    manager = FakeManager()
    manager.should_save = lambda is_best: is_best
    by_metric = {"early_stopping_patience": 3, "early_stopping_metric": "loss"}
    plateau = {"learning_rate_schedule": "plateau", "early_stopping_metric": "loss"}
    for changes, metric in ((by_metric, "loss"), (plateau, "loss"), ({}, "accuracy")):
        for better, values in evaluations.items():
            manager.steps.clear()
            save_or_stop(manager, history=TrainingHistory(evaluations=values), **changes)
            assert manager.steps == ([2] if better == metric else [])
