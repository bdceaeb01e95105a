import csv
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("optuna")

from keras_effnet.search_space import SPACES, space_around
from keras_effnet.variant_file import write_variant
from keras_effnet.variant_lookup import find_variant
from tests.conftest import TINY
from tests.tpu_train.search import fake_search
from tpu_train.checkpointing.preemption import STOPPED
from tpu_train.cli.search import main
from tpu_train.cli.train import main as train
from tpu_train.search import workers

SHORT = ["--trials=2", "--epochs=2", "--phases=2", "--batch_size=8", "--steps_per_loop=2"]
SHORT += ["--augment=none"]  # test_resume.py resumes with augmentation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 images of 3 classes."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 100, (60, 32, 32, 3))
    images[..., 0] += (labels * 70)[:, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return str(path)


@pytest.fixture
def space(monkeypatch):
    monkeypatch.setitem(SPACES, "tiny", space_around(TINY))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space=smal"], "Did you mean 'small'"),
        (["--sampler=evolution"], "Unknown sampler 'evolution'"),
        (["--model=efficientnet-b0"], "--model does not belong to a search"),
        (["--weights=auto"], "leave --weights out"),
        (["--freeze=backbone"], "leave --freeze out"),
        (["--unlabeled_ratio=2"], "give --unlabeled_ratio=0, or another --recipe"),
        (["--teacher=no.keras"], "teacher"),
        (["--device=multi-worker"], "Unknown device 'multi-worker'"),
        (["--pruner=halving"], "give --phases=2 or more"),
        (["--sampler=tpe", "--workers=5"], "give --parallel_trials=5"),
        (["--workers=5000"], "--workers=5000: give at most "),
        (["--minival=nan"], "minival must be a number"),
        (["--minival=2"], "or a number of images, at least 10, got 2"),
        (["--minival=0.6"], "a fraction of the training images, at most 0.5,"),
        (["--workdir=gs://bucket/x"], "is not a local folder"),
        (["--storage=postgres://nowhere/x"], "cannot open the storage postgres://nowhere/x"),
        (["--storage=trials.log"], "--storage=trials.log is not the URL of a database"),
        (["--study="], "--study is empty"),
        (["--step_time=tpux"], "Unknown step_time 'tpux'"),
        (["--trails=3"], "Did you mean '--trials'"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(flags, message, data, tmp_path, capsys):
    assert main([f"--data={data}", f"--workdir={tmp_path / 'w'}", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("effnet-train search: ")


def test_a_workdir_in_a_file_is_refused(data, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main([f"--data={data}", f"--workdir={tmp_path / 'file' / 'w'}"]) == 2
    assert f"is in '{tmp_path / 'file'}', which is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["--workers=1", "--workers=2"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minival=0.1"], "which do not give a minival of 0.1: it needs 10 images or more"),
        (["--minival=0.25", "--max_parameters=100"], "the smallest has 27,"),
    ],
)
def test_bad_data_and_limits_are_refused_at_once(workers, flags, message, data, tmp_path, capsys):
    assert main([f"--data={data}", f"--workdir={tmp_path}", workers, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "study.json").exists()  # correct the flag, and use the same workdir


@pytest.mark.slow
def test_a_search_resumes_within_a_trial_and_its_network_trains(
    data, space, tmp_path, capsys, monkeypatch
):
    def search(folder, *flags):
        common = ["--space=tiny", f"--data={data}", "--minival=0.25", "--device=cpu", *SHORT]
        return main([f"--workdir={tmp_path / folder}", *common, *flags])

    assert search("a") == 0
    printed = capsys.readouterr()
    assert "best network: trial " in printed.out
    assert "2 of 2 finished" in printed.err
    # Ctrl-C during the second phase of the first trial
    log = tmp_path / "b" / "trials" / "00000" / "train.log"

    def interrupt():
        while not log.exists() or "phase 2/2" not in log.read_text():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert search("b") == STOPPED
    thread.join()
    assert "The same command resumes" in capsys.readouterr().err
    assert search("b") == 0
    assert "resuming after step" in log.read_text()
    tables = [(tmp_path / name / "leaderboard.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1]
    assert {p.name for p in log.parent.iterdir()} == {
        *(".lock", "network.json", "train.log", "recipe.json", "metrics.jsonl")
    }
    # the same study with another recipe, and a finished one
    assert search("a", "--epochs=3") == 2
    assert "recipe.epochs 2.0, now 3.0" in capsys.readouterr().err
    assert search("a") == 0
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert {row["step_time_source"] for row in rows} == {"multiply-adds of one image"}
    # the best network is trained like any other
    best = tmp_path / "a" / "best.json"
    sizes = [f"--image_size_{which}=32" for which in ("first", "last", "eval")]
    flags = [f"--model={best}", f"--data={data}", f"--workdir={tmp_path / 'c'}", "--nopages"]
    assert train([*flags, "--recipe=digits", *SHORT[1:], *sizes]) == 0
    assert json.loads((tmp_path / "c" / "recipe.json").read_text())["recipe"]["model"] == str(best)
    assert (tmp_path / "c" / "model.keras").exists()


@pytest.mark.slow
def test_a_search_of_compound_coefficients_trains_at_their_image_sizes(
    data, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "tiny.json"
    write_variant(path, TINY)
    flags = [f"--space=compound:{path}", "--max_flops=750000"]  # which leaves two networks
    flags += [f"--data={data}", f"--workdir={tmp_path / 'a'}", "--minival=0.25", "--device=cpu"]
    assert main([*flags, *SHORT[1:]]) == 0
    assert "2 of 2 finished" in capsys.readouterr().err
    sizes = {}
    for trial in (tmp_path / "a" / "trials").iterdir():
        recipe = json.loads((trial / "recipe.json").read_text())["recipe"]
        lines = (trial / "metrics.jsonl").read_text().splitlines()
        (size,) = {json.loads(line)["image_size"] for line in lines}
        assert recipe["image_size_last"] == recipe["image_size_eval"] == size
        sizes[find_variant(str(trial / "network.json")).name.split("-")[-1]] = size
    assert sizes == {"g1.15": 36, "g1.05": 32}


def test_a_killed_worker_is_replaced(tmp_path, capfd):
    request = fake_search.make_request(tmp_path, trials=6)
    request = fake_search.with_workers(request, 2)
    assert workers.run_workers(fake_search.work_or_be_killed, request, lambda: "") == 0
    assert "a worker was ended by SIGKILL; starting another one" in capfd.readouterr().err
    assert (tmp_path / "leaderboard.csv").read_text().count("\n") == 7


def test_stopping_the_command_stops_its_workers(tmp_path):
    request = fake_search.with_workers(fake_search.make_request(tmp_path), 2)
    start = time.monotonic()

    def stop():
        return "SIGINT" if time.monotonic() - start > 0.5 else ""

    assert workers.run_workers(fake_search.wait_for_stop, request, stop) == STOPPED
