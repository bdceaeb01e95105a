import os

import pytest

from keras_effnet import atomic_write


def test_files_are_written_as_others_are(tmp_path):
    atomic_write.write({str(tmp_path / "a"): b"1", str(tmp_path / "b"): b"2"})
    (tmp_path / "c").touch()
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    assert len({os.stat(tmp_path / name).st_mode for name in "abc"}) == 1


def test_nothing_is_moved_before_everything_is_written(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        atomic_write.write({str(tmp_path / "a"): b"new", str(tmp_path / "none" / "b"): b"new"})
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_places_that_cannot_be_written_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "m.tflite", "/proc/m.tflite"):
        with pytest.raises(ValueError, match=r"folder|cannot be written"):
            atomic_write.check_writable(path)
    atomic_write.check_writable(tmp_path / "m.tflite")
    assert not os.listdir(tmp_path)
