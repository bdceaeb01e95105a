"""Killed runs resume bit-identically. Measurements: benchmarks/kill9.py, docs/results/resume.md."""

import json
import signal
import time

import keras
import numpy as np
import pytest

from benchmarks import kill9, local_workers
from tests.tpu_train.forked_command import ForkedCommand
from tpu_train.checkpointing import storage
from tpu_train.cli.train import main

pytestmark = pytest.mark.slow

# A small network with all else that must be restored: mixing, dropout, EMA, accumulation, clipping.
FLAGS = {
    **{name: value for name, value in kill9.FLAGS.items() if name not in ("width", "depth")},
    "model": "tests.tpu_train.networks:conv_network",
    "augment": "trivialaugment",  # test_run.py resumes with RandAugment
    "drop_path_first": 0,
    "drop_path_last": 0,
    "epochs": 4,
    "phases": 2,
    "image_size_last": 40,
    "image_size_eval": 40,
    "pages": False,
    # What fine-tuning adds: a phase that trains more layers, rare classes, and what evaluations
    # decide. The rate is so large that the evaluation loss grows: it is lowered, and phases end.
    **{"freeze": "conv+bn,none", "class_weights": "0:2", "oversample": True},
    **{"learning_rate_schedule": "plateau", "plateau_patience": 1, "decay_factor": 0.5},
    **{"learning_rate": 5, "warmup_epochs": 0, "eval_epochs": 1, "early_stopping_patience": 1},
    **{"vertical_flip": True, "quarter_turns": True, "color_jitter": 0.3},
}
IMAGES = [10, 10, 10, 5]  # of each class, in training
SECONDS_TO_NOTICE = 120  # until a lost worker is noticed


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "data.npz"
    kill9.write_data(data, images=48)
    with np.load(data) as all_of_them:
        kept = np.arange(48) % 8 != 7  # half of the last class
        np.savez(data, **{name: array[kept] for name, array in all_of_them.items()})
    return {**FLAGS, "data": data}


def _train(flags, workdir):
    """Trains in this process, with the flags of a command."""
    assert main([f"--workdir={workdir}", *(f"--{k}={v}" for k, v in flags.items())]) == 0


@pytest.fixture(scope="module")
def two_devices(flags, tmp_path_factory):
    """The work directory of an uninterrupted run on two devices."""
    workdir = tmp_path_factory.mktemp("devices") / "uninterrupted"
    _train({**flags, "device": "cpu:2"}, workdir)
    return workdir


def test_a_run_killed_while_it_saves_resumes_bit_identically(flags, tmp_path, two_devices):
    flags = {**flags, "device": "cpu:2"}
    killed = kill9.Training(flags, tmp_path / "killed")
    assert killed.until_saving(3), killed.said[-9:]  # the first phase has ended early
    assert killed.kill()
    _train(flags, tmp_path / "killed")
    assert kill9.digests(tmp_path / "killed") == kill9.digests(two_devices)


class _ForkedTraining(kill9.Training):
    def start(self, words, environment):
        return ForkedCommand(main, words, environment=environment)


def _start_two(flags, workdir):
    """Starts two workers on this machine."""
    flags = {**flags, "device": "multi-worker"}
    environments = [{**e, "TMPDIR": str(workdir.parent)} for e in local_workers.environments()]
    return [_ForkedTraining(flags, workdir, environment=e) for e in environments]


def _wait_for_checkpoint(training, workdir):
    """Waits for a newer checkpoint; False if the training ends before."""

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


def _output(trainings):
    for training in trainings:
        training.process.kill()
        training.wait()
    return "\n".join(line for training in trainings for line in training.said[-9:])


@pytest.fixture(scope="module")
def two_workers(flags, tmp_path_factory):
    """The work directory of two workers' uninterrupted run."""
    workdir = tmp_path_factory.mktemp("workers") / "uninterrupted"
    workers = _start_two({**flags, "pages": True}, workdir)
    assert [worker.wait() for worker in workers] == [0, 0], _output(workers)
    assert not [path for path in workdir.iterdir() if path.name.startswith(".")]
    return workdir


def test_two_devices_and_two_workers_give_the_weights_of_one_device(
    flags, tmp_path, two_devices, two_workers
):
    _train({**flags, "device": "cpu", "pages": True}, tmp_path)
    for other in (two_devices, two_workers):
        assert _records(other, "learning_rate") == _records(tmp_path, "learning_rate")
        for a, b in zip(_last_values(tmp_path), _last_values(other)):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    workdirs = two_workers, tmp_path
    two, one = (json.loads((w / "evaluation.json").read_text())["metrics"] for w in workdirs)
    assert (two["images"], two["top1"]) == (one["images"], one["top1"])  # each image once
    # All that evaluations decide has happened, and repeated images are counted once.
    record = json.loads((tmp_path / "recipe.json").read_text())
    planned = [phase["end_step"] for phase in record["phases"]]
    assert all(end < plan for end, plan in zip(_records(tmp_path, "seconds"), planned))
    rates = _records(tmp_path, "learning_rate").values()
    assert [rate / max(rates) for rate in rates] == [1, 1, 0.5, 0.25]
    assert (record["training_images"], record["images_per_class"]) == (sum(IMAGES), IMAGES)


def _records(workdir, key):
    """{step: value} of the records in metrics.jsonl that have a key."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record[key] for record in records if key in record}


def _last_values(workdir):
    """The arrays of the last checkpoint (weights, EMA weights, slots) and of the model."""
    model = keras.saving.load_model(workdir / "model.keras", compile=False)
    return [*storage.latest(str(workdir / "checkpoints")).values, *model.get_weights()]


def test_stopped_and_killed_workers_resume_bit_identically(flags, tmp_path, two_workers):
    stopped = _start_two(flags, tmp_path / "killed")
    assert stopped[1].until(", tracing"), _output(stopped)
    stopped[1].process.send_signal(signal.SIGTERM)
    assert [worker.wait() for worker in stopped] == [75, 75], _output(stopped)
    assert "(requested on another worker)" in stopped[0].said[-1]
    assert "(SIGTERM)" in stopped[1].said[-1]

    survivor, dead = _start_two(flags, tmp_path / "killed")
    assert _wait_for_checkpoint(survivor, tmp_path / "killed"), _output([survivor, dead])
    dead.kill()
    assert survivor.process.wait(SECONDS_TO_NOTICE) == 1
    survivor.wait()
    assert "Another worker is gone" in survivor.said[-1], _output([survivor])

    resumed = _start_two(flags, tmp_path / "killed")
    assert [worker.wait() for worker in resumed] == [0, 0], _output(resumed)
    assert kill9.digests(tmp_path / "killed") == kill9.digests(two_workers)
