import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.tpu_train.noisy_student.conftest import write_photos, write_teacher
from tpu_train.cli import main
from tpu_train.noisy_student import rounds, score_chunks
from tpu_train.noisy_student.round_report import Round, describe, write_rounds

pytestmark = pytest.mark.slow

FLAGS = {
    "recipe": "noisy-student-finetune",
    "model": "tests.tpu_train.networks:conv_network",
    "weights": "",
    "freeze": "none",
    "layer_decay": 1,
    "image_size_first": 32,
    "image_size_last": 32,
    "image_size_eval": 32,
    "augment": "none",
    "drop_path_first": 0,
    "drop_path_last": 0,
    "batch_size": 8,
    "epochs": 4,
    "steps_per_loop": 1,
    "save_minutes": 0,
    "holdout": 0.25,
    "rounds": 3,
    "threshold": 0.25,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory, teacher_path):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    labels = np.arange(32) % 4
    images = random.integers(0, 80, (32, 20, 30, 3))
    images[..., 0] += (labels * 55)[:, None, None]
    classes = np.array(list("abcd"))
    np.savez(folder / "data.npz", images=images.astype(np.uint8), labels=labels, classes=classes)
    unlabeled = write_photos(folder / "unlabeled", count=2 * score_chunks.CHUNK // 64)
    return {
        **FLAGS,
        "teacher": teacher_path,
        "data": folder / "data.npz",
        "unlabeled": unlabeled,
    }


def words(flags, workdir):
    return ["noisy-student", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in flags.items())]


def kill_when(flags, workdir, exists):
    """Runs the command in a process, which is killed (kill -9) when `exists()`."""
    code = "import sys; from tpu_train.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words(flags, workdir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    while process.poll() is None and not exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def content(workdir):
    """The files of round 1 that must be equal to the bit, and the weights of its student."""
    import keras

    folder = workdir / "round-1"
    labels = {p.name: p.read_bytes() for p in (folder / rounds.LABELS).iterdir()}
    weights = keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
    return labels, [w.tobytes() for w in weights]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The work directory of uninterrupted rounds. No student is better than this teacher."""
    workdir = tmp_path_factory.mktemp("rounds") / "whole"
    assert main(words(flags, workdir)) == 0
    return workdir


def test_killed_rounds_resume_bit_identically(flags, whole, tmp_path):
    killed = tmp_path / "killed"
    partial = killed / "round-1" / rounds.LABELS / ".partial"
    assert kill_when(flags, killed, lambda: (partial / "scores-00000.npz").exists())
    assert not (killed / "round-1" / rounds.LABELS / "index.jsonl").exists()
    checkpoints = killed / "round-1" / "checkpoints"
    assert kill_when(
        flags, killed, lambda: any(p.name > "step-000000000" for p in checkpoints.glob("step-*"))
    )
    assert main(words(flags, killed)) == 0
    assert content(killed) == content(whole)


def test_rounds_end_when_a_student_is_not_better(flags, whole, capsys):
    assert not (whole / "round-2").exists()
    record = json.loads((whole / "rounds.json").read_text())
    assert [r["number"] for r in record["rounds"]] == [0, 1]
    assert record["rounds"][0]["accuracy"] == 1.0
    assert record["rounds"][1]["pseudo_labeled"] > 0
    assert (whole / "round-1" / "evaluation.html").exists()
    assert (whole / "teacher" / "evaluation.json").exists()
    before = content(whole)
    assert main(words(flags, whole)) == 0  # nothing is trained again
    assert content(whole) == before
    printed = capsys.readouterr()
    assert "round 1 was trained before" in printed.err
    assert "round 1 does not help" in printed.err
    assert f"best: {flags['teacher']}, top-1 100.00%" in printed.out


def test_bad_input_is_one_error_before_anything_is_written(flags, tmp_path, capsys):
    other = write_teacher(tmp_path / "other", classes="abxd")
    few = write_teacher(tmp_path / "few", classes="abc")
    cases = (
        ({"teacher": other}, "has other classes"),
        ({"teacher": few}, "has 3 classes, and the labeled data have 4"),
        ({"teacher": tmp_path / "none.keras"}, "is not a .keras file"),
        ({"unlabeled_ratio": 0}, "has an unlabeled_ratio of 0"),
        ({"holdout": 0}, "there are none: give --holdout=0.2"),
        ({"unlabeled": tmp_path / "none"}, "does not exist"),
        ({"students": "efficientnet-b9"}, "efficientnet-b9"),
    )
    for change, message in cases:
        assert main(words({**flags, **change}, tmp_path / "run")) == 2, change
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("effnet-train noisy-student: ")]
        assert len(errors) == 1, lines
        assert message in errors[0]
        assert not (tmp_path / "run").exists()


def test_a_page_and_a_picture_show_all_rounds(tmp_path):
    results = [
        Round(n, f"m{n}", 100, 0.5 + n / 10, (0.4 + n / 10, 0.6 + n / 10), 1.0, 0.1, 50)
        for n in range(3)
    ]
    write_rounds(str(tmp_path), results)
    page = (tmp_path / "rounds.html").read_text()
    assert "The best model is m2, of round 2" in page
    assert page.count("<tr>") == 4
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert "round 2: top-1 70.00% (60.00% to 80.00%) of 50" in describe(results[2])
