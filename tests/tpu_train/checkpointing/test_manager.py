import dataclasses
import errno
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.checkpointing import storage
from tpu_train.checkpointing.manager import (
    MOST_ROLLBACKS,
    NotFiniteError,
    Saves,
    StoppedError,
    TooManyRollbacksError,
    alone,
    everyone,
    identity,
    segments,
)
from tpu_train.recipes.table import RECIPES
from tpu_train.training.distribution import make_strategy

RUN = {"seed": 3, "model": "tiny", "classes": ("a", "b")}


@dataclass(frozen=True)
class Phase:
    number: int


class State:
    def __init__(self, value=0.0):
        self.variables = [
            tf.Variable([value] * 3, name="stem_conv/kernel"),
            tf.Variable(5, dtype=tf.int64, name="count"),
        ]


class Said:
    def __init__(self):
        self.lines = []
        self.say = self.lines.append


@pytest.fixture
def saves(tmp_path):
    """Makes a run's saves; `reasons` are what it is told at one `at` after the other."""

    def make(*reasons, minutes=10.0, writes=True, everyone=alone, run=None, folder="run"):
        told = iter(reasons)
        return Saves(
            str(tmp_path / folder),
            run or RUN,
            minutes,
            stop=lambda: next(told, ""),
            writes=writes,
            everyone=everyone,
        )

    return make


def _steps(saves):
    return [step for step, _ in storage._found(saves.folder)]


def test_a_run_saves_at_the_end_of_a_phase_after_the_minutes_and_when_it_is_stopped(saves):
    said = Said()
    saves().at(1, State(), [], said, phase_is_over=False)
    assert not _steps(saves())
    saves().at(2, State(), [Phase(1)], said, phase_is_over=True)
    assert _steps(saves()) == [2]
    saves(minutes=0).at(3, State(), [Phase(1)], said, phase_is_over=False)
    assert _steps(saves()) == [2, 3]
    with pytest.raises(StoppedError, match=r"after step 4 \(SIGTERM\). The same command goes on"):
        saves("SIGTERM").at(4, State(), [Phase(1)], said, phase_is_over=False)
    assert _steps(saves()) == [3, 4]
    assert not said.lines


def test_the_notes_say_what_a_run_is_and_where(saves):
    run = saves()
    run.evaluated(9, {"averaged": 0.5, "raw": 0.4})
    run.at(9, State(), [Phase(1)], Said(), phase_is_over=True)
    notes = saves().find().notes
    assert {k: notes[k] for k in ("step", "phase", "seed", "phases", "skipped")} == {
        "step": 9,
        "phase": 1,
        "seed": 3,
        "phases": [{"number": 1}],
        "skipped": [],
    }
    assert notes["run"]["model"] == "tiny"
    assert len(notes["run_sha256"]) == 64
    assert notes["versions"]["tensorflow"] == tf.__version__
    assert notes["best"] == {"step": 9, "averaged": 0.5, "raw": 0.4}
    assert notes["evaluations"] == [notes["best"]]


def test_what_is_found_is_what_was_saved(saves):
    saves().at(2, State(7.0), [], Said(), phase_is_over=True)
    state = State()
    found = saves().find()
    storage.restore(found, state.variables)
    assert found.step == 2
    assert state.variables[0].numpy().tolist() == [7.0] * 3
    assert saves(folder="none").find() is None


def test_another_run_is_refused_with_what_differs(saves):
    saves().at(2, State(), [], Said(), phase_is_over=True)
    with pytest.raises(ValueError, match=r"of another run \(model 'tiny', now 'other'\)"):
        saves(run={**RUN, "model": "other"}).find()


def test_other_versions_are_said_and_gone_on_with(saves, monkeypatch):
    saves().at(2, State(), [], Said(), phase_is_over=True)
    monkeypatch.setattr(tf, "__version__", "9.9")
    said = []
    assert saves().find(said.append).step == 2
    assert len(said) == 1
    assert "this is 9.9: what follows is not equal to the bit" in said[0]


def _full(folder, checkpoint):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_the_run_goes_on(saves, monkeypatch):
    run, said = saves(minutes=0), Said()
    run.at(1, State(), [], said, phase_is_over=False)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "save", _full)
        run.at(2, State(), [], said, phase_is_over=False)
    assert len(said.lines) == 1
    assert "not saved at step 2: [Errno 28] No space left" in said.lines[0]
    assert "The checkpoint of step 1 is kept" in said.lines[0]
    run.at(3, State(), [], said, phase_is_over=False)
    assert _steps(run) == [1, 3]


def test_a_stop_that_cannot_be_saved_says_from_where_the_run_will_go_on(saves, monkeypatch):
    run = saves("", "SIGINT", minutes=0)
    run.at(1, State(), [], Said(), phase_is_over=False)
    monkeypatch.setattr(storage, "save", _full)
    with pytest.raises(StoppedError, match=r"could not be saved: .*The checkpoint of step 1 is"):
        run.at(2, State(), [], Said(), phase_is_over=False)
    with pytest.raises(StoppedError, match="the same command begins anew"):
        saves("SIGINT", folder="b").at(2, State(), [], Said(), phase_is_over=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_number_are_not_saved_over_good_ones(saves, bad):
    run = saves(minutes=0)
    run.at(1, State(), [], Said(), phase_is_over=False)
    message = "stem_conv/kernel has NaN or Inf after step 2: .*The checkpoint of step 1 is kept"
    with pytest.raises(NotFiniteError, match=message):
        run.at(2, State(bad), [], Said(), phase_is_over=False)
    assert _steps(run) == [1]


def test_the_best_is_kept_and_a_resume_does_not_forget_it(saves):
    accuracies = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.9, 5: 0.8}
    for step, accuracy in accuracies.items():
        run = saves()  # restarted after every step
        run.find()
        run.evaluated(step, {"averaged": accuracy, "raw": 1.0})
        run.at(step, State(float(step)), [], Said(), phase_is_over=True)
    assert _steps(run) == [2, 4, 5]
    run = saves()
    run.find()
    assert run.best == {"step": 2, "averaged": 0.9, "raw": 1.0}
    assert [e["averaged"] for e in run.evaluations] == list(accuracies.values())
    assert run.read_best().values[0].tolist() == [2.0] * 3


def test_a_best_in_the_middle_of_a_phase_is_saved_at_once(saves):
    run = saves()
    for step, accuracy in ((1, 0.5), (2, 0.4), (3, 0.6)):
        run.evaluated(step, {"averaged": accuracy})
        run.at(step, State(), [], Said(), phase_is_over=False)
    assert _steps(run) == [1, 3]


def test_a_best_that_could_not_be_saved_is_not_the_best(saves, monkeypatch):
    run = saves()
    run.evaluated(1, {"averaged": 0.5})
    run.at(1, State(), [], Said(), phase_is_over=True)
    run.evaluated(2, {"averaged": 0.9})
    with monkeypatch.context() as patched:
        patched.setattr(storage, "save", _full)
        run.at(2, State(), [], Said(), phase_is_over=True)
    run.evaluated(3, {"averaged": 0.7})
    run.at(3, State(), [], Said(), phase_is_over=True)
    assert run.best["step"] == 3


def test_what_a_loop_keeps_is_there_after_a_resume_and_taken_back_by_a_rollback(saves):
    run = saves()
    run.kept["accumulation"] = 2
    run.at(1, State(), [], Said(), phase_is_over=True)
    run.kept["accumulation"] = 4
    assert run.find().step == 1
    assert run.kept == {"accumulation": 2}
    again = saves()
    again.find()
    assert again.kept == {"accumulation": 2}


# Several workers


def _others(*rows):
    """What :func:`everyone` gives to the first of several workers."""
    told = iter(rows)
    return lambda numbers: np.asarray([numbers, *next(told)], np.int64)


def test_all_workers_stop_when_one_is_asked_to(saves):
    run = saves(everyone=_others([[0, 0]], [[1, 0]]))
    run.at(1, State(), [], Said(), phase_is_over=False)
    with pytest.raises(StoppedError, match=r"after step 2 \(another worker was asked to\)"):
        run.at(2, State(), [], Said(), phase_is_over=False)
    assert _steps(run) == [2]


def test_the_first_worker_says_when_it_is_time_and_it_alone_writes(saves):
    run = saves(everyone=_others([[0, 1]]))
    run.at(1, State(), [], Said(), phase_is_over=False)
    assert not _steps(run)
    second = saves(minutes=0, writes=False, everyone=lambda numbers: np.asarray([[0, 1], numbers]))
    second.at(1, State(), [], Said(), phase_is_over=False)
    assert not _steps(run)


def test_workers_that_find_different_checkpoints_stop_at_an_error_rather_than_wait(saves):
    saves().at(7, State(), [], Said(), phase_is_over=True)
    with pytest.raises(ValueError, match=r"\(step 7, none\): give a --workdir that all of them"):
        saves(everyone=_others([[0, -1, 0]])).find()
    with pytest.raises(ValueError, match=r"\(step 7, step 7\)"):  # of other contents
        saves(everyone=_others([[0, 7, 1234]])).find()
    digest = int(storage.latest(saves().folder).digest[:15], 16)
    assert saves(everyone=_others([[0, 7, digest]])).find().step == 7


def test_a_worker_that_refuses_its_checkpoint_tells_the_others_first(saves):
    saves().at(7, State(), [], Said(), phase_is_over=True)
    told = []

    def tell(numbers):
        told.append(numbers)
        return np.asarray([numbers, numbers])

    with pytest.raises(ValueError, match="is of another run"):
        saves(run={**RUN, "seed": 4}, everyone=tell).find()
    assert told[0][0]
    with pytest.raises(ValueError, match="Another worker does not take its checkpoint"):
        saves(everyone=_others([[1, 7, 1]])).find()


def test_one_worker_asks_nobody():
    assert everyone(tf.distribute.OneDeviceStrategy("/cpu:0")) is alone
    assert everyone(make_strategy("cpu:2")) is alone
    assert alone([True, 7]).tolist() == [[1, 7]]


# Steps that are left out


def test_skipped_steps_are_noted_and_a_resume_skips_them_too(saves):
    run = saves(minutes=0)
    run.at(6, State(), [], Said(), phase_is_over=False)
    run.skip(9, 12)
    assert run.find().step == 6
    assert run.skipped == [[9, 12]]
    run.at(9, State(), [], Said(), phase_is_over=False)
    run.skip(15, 18)
    again = saves(minutes=0)
    again.find()
    assert again.skipped == [[9, 12]]
    run.find()
    run.at(15, State(), [], Said(), phase_is_over=False)
    again.find()
    assert again.skipped == [[9, 12], [15, 18]]


def test_a_rollback_forgets_the_evaluations_after_its_checkpoint(saves):
    run = saves()
    for step, accuracy in ((1, 0.3), (2, 0.2)):
        run.evaluated(step, {"averaged": accuracy})
        run.at(step, State(), [], Said(), phase_is_over=True)
    run.evaluated(3, {"averaged": 0.9})
    run.skip(2, 3)
    run.find()
    assert [e["step"] for e in run.evaluations] == [1, 2]
    assert run.best["step"] == 1


def test_after_ten_rollbacks_a_run_stops_also_when_it_was_resumed_in_between(saves):
    run = saves()
    for i in range(MOST_ROLLBACKS):
        run.skip(3 * i, 3 * i + 3)
        run.at(3 * i + 3, State(), [], Said(), phase_is_over=True)
        run = saves()
        run.find()
    with pytest.raises(TooManyRollbacksError, match="no number at steps 60 to 62, after 10 times"):
        run.skip(60, 63)


@pytest.mark.parametrize(
    ("skipped", "parts"),
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
def test_segments_are_the_steps_that_are_not_skipped(skipped, parts):
    assert segments(10, 40, skipped) == parts
    steps = {s for first, end in parts for s in range(first, end)}
    assert steps == set(range(10, 40)) - {s for a, b in skipped for s in range(a, b)}


def test_a_runs_identity_changes_with_its_recipe_and_its_labels(source):
    recipe = RECIPES["digits"]
    own = identity(recipe, source, source)
    assert identity(recipe, source, source) == own
    assert identity(dataclasses.replace(recipe, seed=9), source, source) != own
    other = dataclasses.replace(source, labels=source.labels[::-1].copy())
    assert identity(recipe, other, source) != own
