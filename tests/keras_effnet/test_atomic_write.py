import os
import subprocess
import sys

import pytest

from keras_effnet import atomic_write


def test_files_are_written_as_others_are(tmp_path):
    atomic_write.write_files({str(tmp_path / "a"): b"1", str(tmp_path / "b"): b"2"})
    (tmp_path / "c").touch()
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    assert len({os.stat(tmp_path / name).st_mode for name in "abc"}) == 1


def test_nothing_is_moved_before_everything_is_written(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        atomic_write.write_files(
            {str(tmp_path / "a"): b"new", str(tmp_path / "none" / "b"): b"new"}
        )
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_places_that_cannot_be_written_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "m.tflite", "/proc/m.tflite"):
        with pytest.raises(ValueError, match=r"folder|not writable"):
            atomic_write.check_writable(path)
    atomic_write.check_writable(tmp_path / "m.tflite")
    assert not os.listdir(tmp_path)


def test_replacing_keeps_the_suffix_and_replaces_at_the_end(tmp_path):
    path = tmp_path / "plot.png"
    path.write_text("old")
    with atomic_write.replacing(path) as temporary:
        assert temporary.endswith(".png")
        with open(temporary, "w") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["plot.png"]


def test_replacing_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "plot.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write.replacing(path):
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plot.png"]


_KILLED = """
import os, sys
from keras_effnet import atomic_write
writing = [atomic_write.replacing(path) for path in sys.argv[1:]]
for file in writing:
    file.__enter__()
os.kill(os.getpid(), 9)
"""


def test_only_leftovers_of_the_named_files_are_removed(tmp_path):
    (tmp_path / "a.keras").write_text("kept")
    (tmp_path / ".partial-00000001").mkdir()
    paths = [str(tmp_path / name) for name in ("a.keras", "b.keras", "run[1]")]
    subprocess.run([sys.executable, "-c", _KILLED, *paths], check=False)
    before = set(os.listdir(tmp_path))
    assert len(before) == 5
    atomic_write.remove_leftovers(tmp_path, ["c.keras", "a", "a.json"])
    assert set(os.listdir(tmp_path)) == before
    atomic_write.remove_leftovers(tmp_path, ["a.keras", "run[1]"])
    (leftover,) = set(os.listdir(tmp_path)) - {"a.keras", ".partial-00000001"}
    assert leftover.endswith(".keras")
    atomic_write.remove_leftovers(tmp_path / "none", ["b.keras"])
    atomic_write.remove_leftovers(tmp_path, ["b.keras"])
    assert set(os.listdir(tmp_path)) == {"a.keras", ".partial-00000001"}


def test_an_output_that_is_an_input_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "m.keras"
    model.write_bytes(b"model")
    (tmp_path / "link.keras").symlink_to(model)
    os.link(model, tmp_path / "hard.keras")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "later.keras").symlink_to(tmp_path / "none.keras")
    for out in ("m.keras", "./m.keras", "link.keras", "hard.keras", "folder/m.keras", str(model)):
        with pytest.raises(ValueError, match=r"is the file of --model, which would be overwritten"):
            atomic_write.check_new(out, {"--labels": None, "--model": model})
    with pytest.raises(ValueError, match="is the file of IN"):
        atomic_write.check_new("none.keras", {"IN": "later.keras"})
    assert atomic_write.check_new("new.keras", {"--model": "m.keras"}) == str(
        tmp_path / "new.keras"
    )
