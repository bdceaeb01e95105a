import errno

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.checkpointing import manager as module
from tpu_train.checkpointing import storage
from tpu_train.checkpointing.manager import CheckpointManager, NotFiniteError, Restored

pytestmark = pytest.mark.every_stack

RUN = {"seed": 3, "model": "tiny", "classes": ("a", "b")}


def variables(value=0.0):
    return [
        tf.Variable([value] * 3, name="stem_conv/kernel"),
        tf.Variable(5, dtype=tf.int64, name="count"),
    ]


def one_worker(numbers):
    return np.asarray([numbers], np.int64)


@pytest.fixture
def new_manager(tmp_path):
    """new_manager(...): another manager of the same folder, as a restarted process has."""

    def new_manager(*, save_minutes=10.0, writes=True, gather=one_worker, run=RUN, folder="run"):
        return CheckpointManager(
            str(tmp_path / folder), run, save_minutes, writes=writes, gather=gather
        )

    return new_manager


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def saved_steps(manager):
    return [step for step, _ in storage._saved(manager.folder)]


def full_disk(folder, checkpoint):
    raise OSError(errno.ENOSPC, "No space left on device")


# When to save


def test_a_checkpoint_is_due_after_the_minutes(new_manager, clock):
    manager = new_manager(save_minutes=10)
    assert not manager.should_save()
    clock[0] += 601
    assert manager.should_save()
    manager.save(1, variables(), {})
    assert not manager.should_save()


def test_a_better_evaluation_is_due_at_once(new_manager):
    manager = new_manager()
    assert not manager.should_save()
    assert manager.should_save(is_best=True)


def test_a_failed_save_is_retried_after_the_minutes(new_manager, clock, monkeypatch):
    manager = new_manager(save_minutes=10)
    clock[0] += 601
    monkeypatch.setattr(storage, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        manager.save(1, variables(), {})
    assert not manager.should_save()
    clock[0] += 601
    assert manager.should_save()


# What is saved and restored


def test_the_notes_record_the_run_its_versions_and_the_best(new_manager):
    manager = new_manager()
    manager.save(9, variables(), {"phases": [1]}, is_best=True)
    notes = storage.latest(manager.folder).notes
    assert {k: notes[k] for k in ("step", "seed", "best", "extra_state")} == {
        "step": 9,
        "seed": 3,
        "best": {"step": 9},
        "extra_state": {"phases": [1]},
    }
    assert notes["run"]["model"] == "tiny"
    assert len(notes["run_sha256"]) == 64
    assert notes["versions"]["tensorflow"] == tf.__version__
    assert notes["versions"]["oneDNN"] in ("on", "off")


def test_restore_returns_what_was_saved(new_manager):
    new_manager().save(2, variables(7.0), {"accumulation": 2})
    restored = variables()
    assert new_manager().restore_latest(restored) == Restored(2, {"accumulation": 2})
    assert restored[0].numpy().tolist() == [7.0] * 3
    assert new_manager(folder="none").restore_latest(restored) is None


def test_a_different_run_is_refused_with_the_difference(new_manager):
    new_manager().save(2, variables(), {})
    with pytest.raises(ValueError, match=r"different run \(model 'tiny', now 'other'\)"):
        new_manager(run={**RUN, "model": "other"}).restore_latest(variables())


def test_another_network_is_refused(new_manager):
    new_manager().save(2, variables(), {})
    with pytest.raises(ValueError, match="belongs to another network"):
        new_manager().restore_latest(variables()[:1])


def test_changed_versions_are_logged_and_accepted(new_manager, monkeypatch):
    new_manager().save(2, variables(), {})
    monkeypatch.setattr(tf, "__version__", "9.9")
    lines = []
    assert new_manager().restore_latest(variables(), lines.append).step == 2
    assert len(lines) == 1
    assert "this process has 9.9" in lines[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_with_nan_or_inf_are_not_saved(new_manager, bad):
    manager = new_manager()
    manager.save(1, variables(), {})
    message = "stem_conv/kernel has NaN or Inf after step 2 .*The checkpoint of step 1 is kept"
    with pytest.raises(NotFiniteError, match=message):
        manager.save(2, variables(bad), {})
    assert saved_steps(manager) == [1]


def test_a_full_disk_keeps_the_earlier_checkpoint(new_manager, monkeypatch):
    manager = new_manager()
    assert "the same command starts from scratch" in manager.describe_latest()
    manager.save(1, variables(), {})
    with monkeypatch.context() as patched:
        patched.setattr(storage, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            manager.save(2, variables(), {})
    assert manager.describe_latest() == "The checkpoint of step 1 is kept"
    manager.save(3, variables(), {})
    assert saved_steps(manager) == [1, 3]


# The best checkpoint


def test_the_best_checkpoint_is_kept_across_restarts(new_manager):
    for step in (1, 2, 3, 4, 5):
        manager = new_manager()
        manager.restore_latest(variables())
        manager.save(step, variables(float(step)), {}, is_best=step <= 2)
    assert saved_steps(manager) == [2, 4, 5]
    manager = new_manager()
    manager.restore_latest(variables())
    assert manager.best_step == 2


def test_a_best_that_could_not_be_saved_is_not_the_best(new_manager, monkeypatch):
    manager = new_manager()
    manager.save(1, variables(), {}, is_best=True)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            manager.save(2, variables(), {}, is_best=True)
    manager.save(3, variables(), {})
    assert manager.best_step == 1


def test_a_rollback_also_rolls_back_the_best(new_manager):
    manager = new_manager()
    manager.save(1, variables(), {}, is_best=True)
    manager.best_step = 3
    manager.restore_latest(variables())
    assert manager.best_step == 1


# Several workers


def with_another(*rows):
    """A gather function: this worker's numbers, then the rows of the other one, call by call."""
    rows = iter(rows)
    return lambda numbers: np.asarray([numbers, next(rows)], np.int64)


def test_only_the_chief_writes(new_manager):
    manager = new_manager(writes=False)
    manager.save(1, variables(), {}, is_best=True)
    assert not saved_steps(manager)
    with pytest.raises(NotFiniteError):
        manager.save(2, variables(np.nan), {})


def test_workers_with_different_checkpoints_are_refused(new_manager):
    new_manager().save(7, variables(), {})
    with pytest.raises(ValueError, match=r"\(step 7, none\): give a --workdir that all of them"):
        new_manager(gather=with_another([0, -1, 0])).restore_latest(variables())
    with pytest.raises(ValueError, match=r"\(step 7, step 7\)"):  # with other contents
        new_manager(gather=with_another([0, 7, 1234])).restore_latest(variables())
    digest = int(storage.latest(new_manager().folder).digest[:15], 16)
    same = new_manager(gather=with_another([0, 7, digest])).restore_latest(variables())
    assert same.step == 7


def test_a_worker_tells_the_others_before_it_raises(new_manager):
    new_manager().save(7, variables(), {})
    sent = []

    def gather(numbers):
        sent.append(numbers)
        return np.asarray([numbers, numbers])

    with pytest.raises(ValueError, match="belongs to a different run"):
        new_manager(run={**RUN, "seed": 4}, gather=gather).restore_latest(variables())
    assert sent[0][0]
    with pytest.raises(ValueError, match="Another worker cannot use its checkpoint"):
        new_manager(gather=with_another([1, 7, 1])).restore_latest(variables())
