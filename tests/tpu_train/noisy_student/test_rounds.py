import json
import pathlib
import signal

import keras
import numpy as np
import pytest

from tests.tpu_train.forked_command import ForkedCommand
from tests.tpu_train.noisy_student import small_parts as parts
from tests.tpu_train.noisy_student.conftest import (
    LEVELS,
    write_labeled,
    write_photos,
    write_teacher,
)
from tpu_train.cli import main
from tpu_train.folder_lock import locked
from tpu_train.noisy_student import rounds
from tpu_train.noisy_student.round_report import Round, describe, write_rounds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_parts")]

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
    "epochs": 8,
    "learning_rate": 5,
    "unlabeled_ratio": 0.5,
    "steps_per_loop": 2,
    "save_minutes": 0,
    "holdout": 0.25,
    "rounds": 3,
    "threshold": 0.25,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags with a teacher that mistakes two of four classes, so that one student is better."""
    folder = tmp_path_factory.mktemp("data")
    return {
        **FLAGS,
        "teacher": write_teacher(folder / "teacher", levels=LEVELS[[0, 1, 3, 2]]),
        "data": write_labeled(folder / "data.npz"),
        "unlabeled": write_photos(folder / "unlabeled", count=40),
    }


def words(flags, workdir):
    return ["noisy-student", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in flags.items())]


def content(workdir):
    """All that must be equal to the bit: pseudo-labels, students and their accuracies."""
    rounds_of = json.loads((workdir / "rounds.json").read_text())["rounds"]
    parts = [[{**entry, "model": pathlib.Path(entry["model"]).name} for entry in rounds_of]]
    for folder in sorted(workdir.glob("round-*")):
        labels = folder / rounds.LABELS
        parts.append({p.name: p.read_bytes() for p in labels.glob("unlabeled-*")})
        parts.append((labels / "index.jsonl").read_text().splitlines()[1:])  # all but the teacher
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        parts.append([w.tobytes() for w in model.get_weights()])
    return parts


@pytest.fixture(scope="module")
def whole(flags, small_parts, tmp_path_factory):
    """The work directory of uninterrupted rounds: the second student is not better."""
    workdir = tmp_path_factory.mktemp("rounds") / "whole"
    assert main(words(flags, workdir)) == 0
    return workdir


# (a file that exists, the file whose place is taken when the process is killed)
MOMENTS = {
    "labeling": ("round-1/{}/.partial/scores-00000.npz", "round-1/{}/.partial/scores-00001.npz"),
    "writing": (
        "round-1/{}/unlabeled-00001-of-00003",
        "round-1/{}/.partial/unlabeled-00001-of-00003.json",
    ),
    "before the student": ("round-1/{}/index.jsonl", "round-1/recipe.json"),
    "in the student": (
        "round-1/checkpoints/step-000000010",
        "round-1/checkpoints/step-000000012",
    ),
    "between rounds": ("round-1/evaluation.json", "rounds.json"),
    "in round 2": ("round-2/checkpoints/step-000000006", "round-2/checkpoints/step-000000008"),
}


def test_rounds_killed_at_six_moments_resume_bit_identically(flags, whole, tmp_path):
    killed = tmp_path / "killed"
    for moment, paths in MOMENTS.items():
        before, at = (killed / path.format(rounds.LABELS) for path in paths)
        process = ForkedCommand(parts.main, words(flags, killed), kill_before=str(at))
        _, written = process.communicate()
        assert process.returncode == -signal.SIGKILL, (moment, written[-2000:])
        assert before.exists(), moment
        assert not at.exists(), moment
    assert main(words(flags, killed)) == 0
    assert content(killed) == content(whole)


def test_rounds_end_when_a_student_is_not_better(flags, whole, capsys):
    assert not (whole / "round-3").exists()
    record = json.loads((whole / "rounds.json").read_text())
    assert [r["number"] for r in record["rounds"]] == [0, 1, 2]
    assert [r["accuracy"] for r in record["rounds"]] == [0.5, 1.0, 1.0]
    assert record["rounds"][1]["pseudo_labeled"] > 0
    assert (whole / "round-1" / "evaluation.html").exists()
    assert (whole / "teacher" / "evaluation.json").exists()
    before = content(whole)
    assert main(words(flags, whole)) == 0  # nothing is trained again
    assert content(whole) == before
    printed = capsys.readouterr()
    assert "round 1 was trained before" in printed.err
    assert "round 2 does not help" in printed.err
    assert f"best: {whole / 'round-1' / 'model.keras'}, top-1 100.00%" in printed.out


def test_bad_input_is_one_error_before_anything_is_written(flags, tmp_path, capsys):
    other = write_teacher(tmp_path / "other", classes="abxd")
    few = write_teacher(tmp_path / "few", classes="abc")
    nameless = write_teacher(tmp_path / "nameless")
    (tmp_path / "nameless" / "labels.txt").unlink()
    cases = (
        ({"teacher": other}, "has other classes"),
        ({"teacher": few}, "has 3 classes, and the labeled data have 4"),
        ({"teacher": nameless}, "has no class names: write the name of each of its 4 outputs"),
        ({"teacher": tmp_path / "none.keras"}, "there is no such file; give a .keras file"),
        ({"teacher_weight": 0.7}, "--teacher_weight is not used: in rounds"),
        ({"threshold": "nan"}, "threshold must be in [0, 1], got nan"),
        ({"rounds": 0}, "0 is not a positive integer"),
        ({"unlabeled_ratio": 0}, "has an unlabeled_ratio of 0"),
        ({"class_weights": "x:2"}, "class_weights"),
        ({"gradient_accumulation_last": 7}, "batch_size 8"),
        ({"holdout": 0}, "there are none: give --holdout=0.2"),
        ({"early_stopping_patience": 2}, "this command evaluates only at the end of each phase"),
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


def test_a_folder_of_another_run_is_an_error(flags, whole, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.json").write_text("{}")
    other = write_teacher(tmp_path / "other", sharpness=0.002)
    inside = flags["unlabeled"] / "rounds"
    cases = (
        ({"teacher": other}, whole, "with other flags (different teacher)"),
        ({"threshold": 0.3}, whole, "with other flags (threshold 0.25, now 0.3)"),
        ({"epochs": 4}, whole, "has a student of other settings (epochs 8.0, now 4.0): give"),
        ({"seed": 1}, whole, "(seed 0, now 1)"),
        ({}, tmp_path, "has a run of effnet-train: give another --workdir"),
        ({}, inside, "is inside --unlabeled"),
        ({}, "gs://bucket/rounds", "rounds need a folder of this machine"),
    )
    before = (whole / "teacher" / "evaluation.json").read_bytes()
    for change, workdir, message in cases:
        assert main(words({**flags, **change}, workdir)) == 2, change
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert (whole / "teacher" / "evaluation.json").read_bytes() == before
    with locked(str(whole)):
        assert main(words(flags, whole)) == 2
    assert "another process is writing to" in capsys.readouterr().err
    cluster = {"worker": ["a:1", "b:1"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert main(words(flags, tmp_path / "hosts")) == 2
    assert "TF_CONFIG has 2 hosts, and rounds run on one machine" in capsys.readouterr().err


def test_finished_rounds_with_oversampling_are_found_again(flags, tmp_path, capsys):
    flags = {**flags, "rounds": 1, "epochs": 1, "oversample": True}
    flags["data"] = tmp_path / "data.npz"
    with np.load(write_labeled(flags["data"])) as arrays:
        content = dict(arrays)
    kept = np.flatnonzero((content["labels"] > 0) | (np.arange(32) < 16))  # half of class a
    np.savez(
        flags["data"],
        images=content["images"][kept],
        labels=content["labels"][kept],
        classes=content["classes"],
    )
    for _ in range(2):
        assert main(words(flags, tmp_path / "run")) == 0, capsys.readouterr().err
    assert "round 1 was trained before" in capsys.readouterr().err


def test_rounds_stop_while_they_evaluate(flags, tmp_path, capsys):
    assert main(words({**flags, "stop_after": "0.001s"}, tmp_path)) == 75
    assert "Stopped while evaluating (time limit" in capsys.readouterr().err.splitlines()[-1]


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
