"""Bad input of effnet-train pseudo-label. Labeling: tests/tpu_train/noisy_student."""

import json

import keras
import pytest

from tests.tpu_train.noisy_student.conftest import write_photos, write_teacher
from tpu_train.cli import main
from tpu_train.folder_lock import locked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, a teacher, and files that are no teachers."""
    folder = tmp_path_factory.mktemp("inputs")
    write_photos(folder / "photos", count=4)
    content = write_teacher(folder / "teacher").read_bytes()
    for name, wrong in {
        "half.keras": content[: len(content) // 2],
        "empty.keras": b"",
        "renamed.keras": b"\x1c\0\0\0TFL3" + bytes(100),
        "m.tflite": b"\x1c\0\0\0TFL3",
    }.items():
        (folder / name).write_bytes(wrong)
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs))
    keras.Model(inputs, outputs).save(folder / "anysize.keras")
    damaged = keras.saving.load_model(folder / "teacher" / "model.keras")
    damaged.set_weights([w * float("nan") for w in damaged.get_weights()])
    damaged.save(folder / "nan.keras")
    (folder / "videos").mkdir()
    (folder / "videos" / "a.mp4").write_bytes(bytes(100))
    return folder


def fails(folder, capsys, **flags):
    """The only line of errors of a command that has written nothing."""
    flags = {"model": "teacher/model.keras", "data": "photos", "out": "out", **flags}
    words = [
        f"--{name}={folder / value if name in ('model', 'data', 'out', 'labels') else value}"
        for name, value in flags.items()
    ]
    assert main(["pseudo-label", "--device=cpu", *words]) == 2, flags
    assert not (folder / "out").exists(), flags
    lines = [line for line in capsys.readouterr().err.splitlines() if "not used as" not in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "none.keras"}, "there is no such file; give a .keras file"),
        ({"model": "teacher"}, "teacher is a folder: give "),
        ({"model": "videos"}, "videos is a folder, not a .keras file"),
        ({"model": "m.tflite"}, "is not a .keras file: a teacher is a model.keras"),
        ({"model": "half.keras"}, "it is not a complete zip archive, so it is incomplete"),
        ({"model": "empty.keras"}, "it is not a complete zip archive, so it is incomplete"),
        ({"model": "renamed.keras"}, "it is not a complete zip archive, so it is incomplete"),
        ({"model": "anysize.keras"}, "anysize.keras cannot be a teacher: "),
        ({"model": "nan.keras"}, "nan.keras cannot be a teacher: it returns NaN or Inf"),
        ({"labels": "none.txt"}, "none.txt: there is no such file"),
        ({"data": "videos"}, "contains no images"),
        ({"data": "videos"}, "but 1 .mp4"),
        ({"out": "photos/out"}, "is inside --data"),
        ({"threshold": "nan"}, "threshold must be in [0, 1], got nan"),
        ({"threshold": "1.5"}, "1.5 is not a number in the range [0, 1]"),
        ({"images_per_class": "-1"}, "-1 is not a non-negative integer"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_written(folder, capsys, flags, message):
    assert message in fails(folder, capsys, **flags)


def test_a_host_outside_the_cluster_is_an_error(folder, capsys, monkeypatch):
    cluster = {"worker": ["a:1", "b:1"]}
    task = {"type": "worker", "index": 5}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert "task index 5 is out of range for 2 tasks of type worker" in fails(folder, capsys)


def test_two_commands_at_once_on_a_folder_are_an_error(folder, capsys, tmp_path):
    with locked(str(tmp_path)):
        message = fails(folder, capsys, out=tmp_path)
    assert f"another process is writing to {tmp_path}: wait until it has finished" in message
    assert not list(tmp_path.iterdir())
