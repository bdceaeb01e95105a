import os

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
