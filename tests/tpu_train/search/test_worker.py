import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

pytest.importorskip("optuna")

from keras_effnet.search_space import SPACES
from keras_effnet.space_lookup import find_space
from keras_effnet.variant_file import write_variant
from keras_effnet.variant_lookup import find_variant
from tests.tpu_train.search import fake_search
from tests.tpu_train.search.fake_search import FLOPS, FakeTrainer, make_request, search
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.search import worker
from tpu_train.search.trial_record import COMPLETE, PRUNED, TrialFailedError, ranked

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.02)


def _leaderboard(folder):
    return (pathlib.Path(folder) / "leaderboard.csv").read_text(encoding="utf-8")


def test_a_study_has_the_trials_that_were_asked_for(tmp_path):
    records = search(make_request(tmp_path, trials=5))
    assert [r.number for r in records] == list(range(5))
    assert all(r.state == COMPLETE and r.accuracy > 0 for r in records)
    assert len({r.blocks for r in records}) == 5
    names = {path.name for path in tmp_path.iterdir()}
    assert {"leaderboard.csv", "report.html", "best.json", "pareto.svg", "rewards.svg"} <= names
    assert not (tmp_path / "trials" / "00000" / "checkpoints").exists()


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_a_stopped_study_resumes_to_the_same_leaderboard(tmp_path, sampler):
    request = make_request(tmp_path / "a", sampler=sampler, trials=16, population=4)
    search(request)
    interrupted = dataclasses.replace(request, workdir=str(tmp_path / "b"))
    calls = iter(range(1000))
    with pytest.raises(StoppedError, match="SIGINT"):
        search(interrupted, stop=lambda: "SIGINT" if next(calls) == 15 else "")
    assert 0 < _leaderboard(tmp_path / "b").count("\n") < 16
    search(interrupted)
    assert _leaderboard(tmp_path / "a") == _leaderboard(tmp_path / "b")


def test_compound_coefficients_resume_and_share_a_cache_by_image_size(tmp_path):
    request = make_request(tmp_path / "a", trials=12, sampler="tpe", population=4)
    settings = dataclasses.replace(request.settings, space="compound:small")
    request = dataclasses.replace(request, settings=settings, cache=str(tmp_path / "cache"))
    records = search(request)
    points = find_space("compound:small").points()
    assert len({r.choices for r in records}) == 12
    assert {r.choices for r in records} <= set(points)
    # networks with the same blocks for other image sizes have other results
    assert len({r.blocks for r in records}) < 12
    assert len(list((tmp_path / "cache").iterdir())) == 12
    interrupted = dataclasses.replace(request, workdir=str(tmp_path / "b"), cache="")
    calls = iter(range(1000))
    with pytest.raises(StoppedError):
        search(interrupted, stop=lambda: "SIGINT" if next(calls) == 9 else "")
    search(interrupted)
    assert _leaderboard(tmp_path / "a") == _leaderboard(tmp_path / "b")
    best = find_variant(str(tmp_path / "a" / "best.json"))
    assert best == find_space("compound:small").point(ranked(records)[0].choices)


def test_a_compound_study_keeps_its_base(tmp_path, tiny):
    path = tmp_path / "best.json"
    write_variant(path, tiny)
    request = make_request(tmp_path / "a", trials=1)
    settings = dataclasses.replace(request.settings, space=f"compound:{path}")
    request = dataclasses.replace(request, settings=settings)
    search(request)
    search(dataclasses.replace(request, trials=2))
    write_variant(path, dataclasses.replace(tiny, stem_filters=16))
    with pytest.raises(ValueError, match=r"another study \(base.blocks"):
        search(request)


def test_more_trials_extend_a_study(tmp_path):
    first = search(make_request(tmp_path, trials=3))
    both = search(make_request(tmp_path, trials=6))
    assert len(both) == 6
    assert [r.blocks for r in both[:3]] == [r.blocks for r in first]
    assert (tmp_path / "trials" / "00000" / ".trained").read_text() == "1 "


@pytest.mark.parametrize("pruner", ["none", "halving"])
def test_several_workers_give_the_leaderboard_of_one(tmp_path, pruner):
    request = make_request(tmp_path / "a", sampler="tpe", trials=14, phases=2, pruner=pruner)
    records = search(request)
    assert any(r.state == PRUNED for r in records) == (pruner == "halving")
    together = dataclasses.replace(request, workdir=str(tmp_path / "b"))
    threads = [
        threading.Thread(target=search, args=(together,), kwargs={"seconds": 0.01 * i})
        for i in range(1, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _leaderboard(tmp_path / "a") == _leaderboard(tmp_path / "b")
    trained = [p.read_text() for p in (tmp_path / "b" / "trials").glob("*/.trained")]
    assert len(trained) == 14
    assert set(trained) <= {"1 2 ", "1 "}


def test_a_killed_workers_trial_is_continued_by_another(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    search(make_request(alone, trials=10, sampler="tpe", phases=2))

    def start():
        command = [sys.executable, "-m", fake_search.__name__, str(together)]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    processes = [start() for _ in range(3)]
    for kills in (1, 2):
        while _trials_with(together, "checkpoints/1") < 2 * kills:
            time.sleep(0.01)
        victim = processes.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        processes.append(start())
    assert [p.wait(300) for p in processes] == [0, 0, 0]
    assert _leaderboard(alone) == _leaderboard(together)
    # at most the phase that was interrupted is trained again
    repeated = [
        path.read_text()
        for path in together.glob("trials/*/.trained")
        if path.read_text() != "1 2 "
    ]
    assert len(repeated) <= 2
    assert set(repeated) <= {"1 1 2 ", "1 2 2 "}


def _trials_with(folder, name):
    trials = folder / "trials"
    return sum((t / name).exists() or (t / ".trained").exists() for t in trials.glob("*"))


def test_equal_networks_are_trained_once(tmp_path, monkeypatch):
    stages = SPACES["small"].stages_of(SPACES["small"].base)
    monkeypatch.setattr(worker, "draw", lambda *arguments: (stages, {}))
    records = search(make_request(tmp_path, trials=3))
    assert [r.duplicate_of for r in records] == [None, 0, 0]
    assert len({r.reward for r in records}) == 1
    assert len(list((tmp_path / "trials").glob("*/.trained"))) == 1
    assert [r.number for r in ranked(records)] == [0]


def test_studies_with_one_cache_train_a_network_once(tmp_path):
    cache = str(tmp_path / "cache")
    first = dataclasses.replace(make_request(tmp_path / "a", trials=4), cache=cache)
    records = search(first)
    second = dataclasses.replace(make_request(tmp_path / "b", trials=4, pruner="none"), cache=cache)
    assert [r.reward for r in search(second)] == [r.reward for r in records]
    assert not list((tmp_path / "b").glob("trials/*/.trained"))


def test_networks_are_under_the_limits(tmp_path):
    records = search(make_request(tmp_path, trials=8, max_parameters=60_000))
    assert max(r.parameters for r in records) <= 60_000


def test_a_failed_trial_does_not_end_the_search(tmp_path, monkeypatch):
    train = FakeTrainer.train

    def fail_once(self, folder, *arguments):
        if folder.endswith("00001"):
            raise TrialFailedError("the loss is NaN")
        return train(self, folder, *arguments)

    monkeypatch.setattr(FakeTrainer, "train", fail_once)
    records = search(make_request(tmp_path, trials=4))
    assert [r.state for r in records] == [COMPLETE, "failed", COMPLETE, COMPLETE]
    assert records[1].error == "the loss is NaN"
    assert "the loss is NaN" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_search_ends_if_all_trials_fail(tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise TrialFailedError("the loss is NaN")

    monkeypatch.setattr(FakeTrainer, "train", fail)
    with pytest.raises(worker.SearchError, match=r"first 3 trials failed, .* the loss is NaN"):
        search(make_request(tmp_path, trials=9))


def test_step_times_of_another_device_are_refused(tmp_path):
    search(make_request(tmp_path, trials=1))
    other = types.SimpleNamespace(**{**vars(FLOPS), "device": "another processor"})
    with pytest.raises(ValueError, match="are of none, and this worker has another processor"):
        search(make_request(tmp_path, trials=2), timer=other)


def test_progress_names_the_best_trial_and_the_time_left(tmp_path, capsys):
    search(make_request(tmp_path, trials=3), seconds=0.01)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("trial 0 of 3: training small-")
    assert lines[1].startswith("trial 0: reward ")
    assert "1 of 3 finished; best trial 0 with " in lines[1]
    assert lines[1].endswith(" s left")
    assert lines[-1].startswith("trial 2: ")
    assert "3 of 3 finished" in lines[-1]
