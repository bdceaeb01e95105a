"""Runs that are killed, in small; the figures: benchmarks/kill9.py, docs/results/resume.md."""

import json
import signal
import socket
import time

import keras
import numpy as np
import pytest

from benchmarks import kill9
from tpu_train.checkpointing import storage
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.training import loop
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import TrainingError, train

pytestmark = pytest.mark.slow

FLAGS = {**kill9.FLAGS, "epochs": 4, "phases": 2, "image_size_last": 40, "image_size_eval": 40}
SECONDS_TO_NOTICE = 120  # that a worker is gone


@pytest.fixture
def flags(tmp_path):
    kill9.write_data(tmp_path / "data.npz", images=48)
    return {**FLAGS, "data": tmp_path / "data.npz"}


class _Early:
    """Dice for moments long before a run's end: its first save, the start of its second phase."""

    @staticmethod
    def randint(low, _):
        return low

    @staticmethod
    def uniform(low, high):
        return low + 0.1 * (high - low)


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_is_not(flags, tmp_path, device):
    flags["device"] = device
    kill9.finish(flags, tmp_path / "whole")
    rows = [kill9.kill_once(flags, tmp_path / "cut", m, _Early) for m in ("save", "phase")]
    assert None not in rows
    kill9.finish(flags, tmp_path / "cut")
    assert kill9.digests(tmp_path / "cut") == kill9.digests(tmp_path / "whole")


def _start_two(flags, workdir):
    """Two workers on this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        kill9.Training(
            {**flags, "device": "multi-worker"},
            workdir,
            environment={
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
                )
            },
        )
        for i in range(2)
    ]


def _until_it_walks(training, workdir):
    """Waits for a checkpoint beyond those that are there; False if the training ends before."""

    def newest():
        folder = workdir / "checkpoints"
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return max((n for n in names if n.startswith("step-")), default="step-")

    before = max(newest(), "step-000000000")
    while training.process.poll() is None:
        if newest() > before:
            return True
        time.sleep(0.005)
    return False


def _said(trainings):
    for training in trainings:
        training.process.kill()
        training.wait()
    return "\n".join(line for training in trainings for line in training.said[-9:])


def test_a_worker_that_is_stopped_or_dies_ends_all_and_a_restart_ends_with_the_same_bits(
    flags, tmp_path
):
    whole = _start_two(flags, tmp_path / "whole")
    assert [worker.wait() for worker in whole] == [0, 0], _said(whole)

    stopped = _start_two(flags, tmp_path / "cut")
    assert _until_it_walks(stopped[0], tmp_path / "cut"), _said(stopped)
    stopped[1].process.send_signal(signal.SIGTERM)
    assert [worker.wait() for worker in stopped] == [75, 75], _said(stopped)
    assert "(another worker was asked to)" in stopped[0].said[-1]
    assert "(SIGTERM)" in stopped[1].said[-1]

    bereft, dead = _start_two(flags, tmp_path / "cut")
    assert _until_it_walks(bereft, tmp_path / "cut"), _said([bereft, dead])
    dead.kill()
    assert bereft.process.wait(SECONDS_TO_NOTICE) == 1
    bereft.wait()
    assert "Another worker is gone" in bereft.said[-1], _said([bereft])

    again = _start_two(flags, tmp_path / "cut")
    assert [worker.wait() for worker in again] == [0, 0], _said(again)
    assert kill9.digests(tmp_path / "cut") == kill9.digests(tmp_path / "whole")


def test_steps_that_make_the_loss_no_number_are_left_out_and_a_resume_leaves_them_out_too(
    source, tiny_recipe, tmp_path, monkeypatch
):
    """The weights are spoilt, too: a rollback has to bring them back."""
    real, calls = loop.traced_steps, []

    def spoilt(recipe, phase, classes, strategy, net, state, *rest):
        run_steps = real(recipe, phase, classes, strategy, net, state, *rest)

        def run(batches, step, steps):
            sums = run_steps(batches, step, steps)
            calls.append(int(step))
            if int(step) != 3:
                return sums
            state.weights[0].assign(state.weights[0] * np.nan)
            return sums * np.nan

        return run

    monkeypatch.setattr(loop, "traced_steps", spoilt)

    def run(workdir, stop=lambda: ""):
        calls.clear()
        with open(tmp_path / "log", "w") as stream:
            return train(
                tiny_recipe,
                source,
                source,
                tmp_path / workdir,
                make_strategy("cpu"),
                stream=stream,
                on_nan="skip",
                stop=stop,
            )

    whole = run("whole")
    assert calls == [0, 3, 0, 6, 9]
    assert "no number in steps 3 to 5: they are left out" in (tmp_path / "log").read_text()
    with pytest.raises(StoppedError):
        run("cut", stop=lambda: "test" if calls[-1:] == [6] else "")
    rest = run("cut")
    assert calls == [9]
    got, want = (
        keras.saving.load_model(r.model_path, compile=False).get_weights() for r in (rest, whole)
    )
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    with pytest.raises(TrainingError, match="--on_nan=skip"), open(tmp_path / "log", "w") as stream:
        train(
            tiny_recipe,
            source,
            source,
            tmp_path / "stopped",
            make_strategy("cpu"),
            stream=stream,
        )
    newest = storage.latest(str(tmp_path / "stopped" / "checkpoints"))
    assert all(np.isfinite(value).all() for value in newest.values)
