import errno
import os
import pathlib

import numpy as np
import pytest

from tpu_train import checkpoints
from tpu_train.checkpoints import Checkpoint, latest, save


def _checkpoint(step):
    values = [np.full(3, step, "float32"), np.array(step, "int64"), np.zeros((0, 2), "float32")]
    return Checkpoint(step, values, {"phases": [step]})


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    save(tmp_path, _checkpoint(7))
    found = latest(tmp_path)
    assert (found.step, found.notes) == (7, {"phases": [7]})
    for have, want in zip(found.values, _checkpoint(7).values):
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


def test_there_is_none_in_an_empty_or_missing_folder(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 1_000_000_000, 30):
        save(tmp_path, _checkpoint(step))
    assert sorted(os.listdir(tmp_path)) == ["step-000000030", "step-1000000000"]
    assert latest(tmp_path).step == 1_000_000_000


@pytest.mark.parametrize("file", ["variables.npz", "notes.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_torn_one_is_passed_over_for_the_one_before(tmp_path, file, damage):
    save(tmp_path, _checkpoint(1))
    save(tmp_path, _checkpoint(2))
    path = tmp_path / "step-000000002" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:20] if damage == "cut" else content.replace(b"2", b"3"))
    said = []
    assert latest(tmp_path, said.append).step == 1
    assert len(said) == 1
    assert "step-000000002 is torn" in said[0]


def test_a_full_disk_leaves_the_one_before_and_nothing_half(tmp_path, monkeypatch):
    save(tmp_path, _checkpoint(1))

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, _checkpoint(2))
    assert os.listdir(tmp_path) == ["step-000000001"]
    assert latest(tmp_path).step == 1


def test_a_kill_in_the_middle_of_saving_costs_nothing(tmp_path):
    save(tmp_path, _checkpoint(1))
    partial = pathlib.Path(tmp_path / ".partial-000000002")
    partial.mkdir()
    (partial / "variables.npz").write_bytes(b"half")
    assert latest(tmp_path).step == 1
    save(tmp_path, _checkpoint(2))
    assert latest(tmp_path).step == 2
    assert not partial.exists()
