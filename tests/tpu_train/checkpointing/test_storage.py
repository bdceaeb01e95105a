import errno
import gc
import io
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.checkpointing import storage
from tpu_train.checkpointing.storage import Checkpoint, FormatError, latest, read, restore, save

NAMES = ["stem_conv/kernel", "stem_bn/moving_mean", "count", "nothing"]


def _checkpoint(step, best=None):
    values = [
        np.full((2, 3), step, "float32"),
        tf.constant([1.5, -0.0, np.inf], tf.bfloat16).numpy(),
        np.array(step, "int64"),
        np.zeros((0, 2), "float16"),
    ]
    return Checkpoint(step, NAMES, values, {"phases": [step], "best": best})


@pytest.fixture(params=["disk", "object store"])
def folder(request, tmp_path):
    """A folder of this disk, and one of a file system that cannot be listed or renamed as one."""
    if request.param == "disk":
        yield str(tmp_path / "checkpoints")
    else:
        path = f"ram://{tmp_path.name}/checkpoints"
        yield path
        tf.io.gfile.rmtree(f"ram://{tmp_path.name}")


def _damage(path, how):
    if how == "gone":
        tf.io.gfile.remove(path)
        return
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    _replace(path, content[:20] if how == "cut" else content.replace(b"2", b"3"))


def _replace(path, content):
    tf.io.gfile.remove(path)  # ram:// writes over the old bytes, and leaves those beyond
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def test_what_was_saved_comes_back_to_the_bit(folder):
    save(folder, _checkpoint(7))
    found = latest(folder)
    assert (found.step, found.names, found.notes["phases"]) == (7, NAMES, [7])
    for have, want in zip(found.values, _checkpoint(7).values):
        assert (have.dtype, have.shape) == (want.dtype, want.shape)
        assert have.tobytes() == want.tobytes()


def test_the_same_state_gives_the_same_digest_and_another_does_not(folder):
    save(folder, _checkpoint(7))
    digest = latest(folder).digest
    save(folder, _checkpoint(7))
    assert latest(folder).digest == digest
    save(folder, _checkpoint(8))
    assert latest(folder).digest != digest


def test_there_is_none_in_an_empty_or_missing_folder(folder):
    assert latest(folder) is None
    tf.io.gfile.makedirs(folder)
    assert latest(folder) is None


def test_the_last_two_are_kept(folder):
    for step in (1, 2, 30, 1_000_000_000):
        save(folder, _checkpoint(step))
    assert sorted(tf.io.gfile.listdir(folder)) == ["step-000000030", "step-1000000000"]
    assert latest(folder).step == 1_000_000_000


def test_the_best_is_kept_however_old(folder):
    for step in (1, 2, 3, 4, 5):
        save(folder, _checkpoint(step, best={"step": 2 if step >= 2 else 1}))
    assert [step for step, _ in storage._found(folder)] == [2, 4, 5]
    assert read(folder, 2).notes["phases"] == [2]


def test_the_best_before_is_kept_until_the_new_one_is_the_last_two(folder):
    """Else a torn newest would leave the one before with a best that is gone."""
    for step, best in ((1, 1), (2, 1), (3, 3)):
        save(folder, _checkpoint(step, best={"step": best}))
    assert [step for step, _ in storage._found(folder)] == [1, 2, 3]
    save(folder, _checkpoint(4, best={"step": 3}))
    assert [step for step, _ in storage._found(folder)] == [3, 4]


def test_a_newer_one_that_was_not_gone_on_from_goes(folder):
    for step in (1, 2, 9):
        save(folder, _checkpoint(step))
    save(folder, _checkpoint(3))  # 9 was torn, say
    assert [step for step, _ in storage._found(folder)] == [2, 3]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((f, d) for f in storage._FILES for d in ("cut", "gone", "changed")),
        ("manifest.json", "cut"),
        ("manifest.json", "gone"),
    ],
)
def test_a_torn_one_is_passed_over_for_the_one_before(folder, file, damage):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    _damage(f"{folder}/step-000000002/{file}", damage)
    said = []
    assert latest(folder, said.append).step == 1
    assert len(said) == 1
    assert "step-000000002 is torn" in said[0]
    with pytest.raises(ValueError, match="step-000000002 cannot be read"):
        read(folder, 2)


def test_a_run_whose_checkpoints_are_all_torn_does_not_begin_anew_by_itself(folder):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    for step in (1, 2):
        _damage(f"{folder}/step-00000000{step}/variables.npz", "cut")
    with pytest.raises(ValueError, match=r"None of .*step-000000002, step-000000001.*--overwrite"):
        latest(folder, lambda line: None)


def test_a_first_one_that_was_never_finished_is_none(folder):
    save(folder, _checkpoint(1))
    _damage(f"{folder}/step-000000001/manifest.json", "gone")
    said = []
    assert latest(folder, said.append) is None
    assert "step-000000001 is torn" in said[0]


def test_another_format_is_refused_rather_than_passed_over(folder):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    manifest = json.dumps({"variables.npz": "0", "notes.json": "0"})
    _replace(f"{folder}/step-000000002/manifest.json", manifest.encode())
    with pytest.raises(FormatError, match=r"step-000000002 .* \(format 1, this one reads 2\)"):
        latest(folder)


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["_to_disk", "_sha256", "_folder_to_disk"])
def test_a_full_disk_leaves_the_one_before_and_nothing_half(tmp_path, monkeypatch, where):
    save(tmp_path, _checkpoint(1))
    with monkeypatch.context() as patched:
        patched.setattr(storage, where, _full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, _checkpoint(2))
    assert not list(tmp_path.glob(".partial*"))
    assert (tmp_path / "step-000000001").exists()
    assert latest(tmp_path).step in (1, 2)
    save(tmp_path, _checkpoint(3))
    assert latest(tmp_path).step == 3


class _SmallDisk(io.FileIO):
    left = 0

    def write(self, chunk):
        _SmallDisk.left -= len(chunk)
        return super().write(chunk) if self.left >= 0 else _full()


@pytest.mark.parametrize("bytes_left", [0, 100, 700, 1300])
def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_nothing_half(
    tmp_path, monkeypatch, bytes_left
):
    save(tmp_path, _checkpoint(1))
    monkeypatch.setattr(_SmallDisk, "left", bytes_left)
    monkeypatch.setattr(storage, "_open", _SmallDisk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, _checkpoint(2))
    gc.collect()  # the archive that was not finished: it says nothing
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_a_store_that_fails_in_the_middle_is_an_oserror_and_leaves_nothing_half(
    tmp_path, monkeypatch
):
    folder = f"ram://{tmp_path.name}"
    save(folder, _checkpoint(1))

    def unavailable(path, value):
        raise tf.errors.UnavailableError(None, None, "try again later")

    monkeypatch.setattr(storage, "_write_json", unavailable)
    with pytest.raises(OSError, match="step-000000002: try again later"):
        save(folder, _checkpoint(2))
    assert tf.io.gfile.listdir(folder) == ["step-000000001"]


def test_what_reads_back_different_is_not_made_current(tmp_path, monkeypatch):
    save(tmp_path, _checkpoint(1))
    monkeypatch.setattr(storage, "_storable", lambda value: np.zeros(3))
    real = storage._sha256
    monkeypatch.setattr(storage, "_sha256", lambda path: real(path)[::-1])
    with pytest.raises(OSError, match=r"variables.npz reads back as something else"):
        save(tmp_path, _checkpoint(2))
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_a_kill_in_the_middle_of_saving_costs_nothing(tmp_path):
    save(tmp_path, _checkpoint(1))
    partial = pathlib.Path(tmp_path / ".partial-000000002")
    partial.mkdir()
    (partial / "variables.npz").write_bytes(b"half")
    assert latest(tmp_path).step == 1
    save(tmp_path, _checkpoint(2))
    assert latest(tmp_path).step == 2
    assert not partial.exists()


def test_on_a_disk_nothing_is_visible_before_it_is_whole(tmp_path, monkeypatch):
    seen = []
    real = storage._write_json
    monkeypatch.setattr(
        storage, "_write_json", lambda *a: seen.append(latest(tmp_path)) or real(*a)
    )
    save(tmp_path, _checkpoint(1))
    assert seen == [None] * 3


def test_in_a_store_the_manifest_is_written_last(tmp_path, monkeypatch):
    written = []
    real = storage._write
    monkeypatch.setattr(
        storage, "_write", lambda path, fill: written.append(path) or real(path, fill)
    )
    save(f"ram://{tmp_path.name}", _checkpoint(1))
    assert written[-1].endswith("step-000000001/manifest.json")


def _variables():
    return [
        tf.Variable(tf.zeros([2, 3]), name="stem_conv/kernel"),
        tf.Variable(tf.zeros([3], tf.bfloat16), name="stem_bn/moving_mean"),
        tf.Variable(0, dtype=tf.int64, name="count"),
        tf.Variable(tf.zeros([0, 2], tf.float16), name="nothing"),
    ]


def test_variables_are_restored_to_the_bit(folder):
    save(folder, _checkpoint(7))
    variables = _variables()
    restore(latest(folder), variables)
    for variable, want in zip(variables, _checkpoint(7).values):
        assert variable.numpy().tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("place", "other", "message"),
    [
        (0, tf.Variable(tf.zeros([2, 3]), name="head/kernel"), r"stem_conv/kernel .*head/kernel"),
        (0, tf.Variable(tf.zeros([3, 2]), name="stem_conv/kernel"), r"float32 2x3.*float32 3x2"),
        (2, tf.Variable(0, dtype=tf.int32, name="count"), r"int64 scalar.*int32 scalar"),
    ],
)
def test_variables_of_another_network_are_refused_before_any_is_changed(
    tmp_path, place, other, message
):
    save(tmp_path, _checkpoint(7))
    variables = _variables()
    variables[place] = other
    with pytest.raises(
        ValueError, match=rf"step-000000007 is of .*variable {place} is .*{message}"
    ):
        restore(latest(tmp_path), variables)
    assert all(not v.numpy().any() for v in variables)


def test_a_network_of_more_variables_is_refused(tmp_path):
    save(tmp_path, _checkpoint(7))
    with pytest.raises(ValueError, match="it has 4 variables, here are 3"):
        restore(latest(tmp_path), _variables()[:3])


def test_the_numbers_that_keras_gives_unnamed_layers_do_not_matter(tmp_path):
    for saved, own in (("conv2d/kernel", "conv2d_12/kernel"), ("dense_3/bias", "dense/bias:0")):
        save(tmp_path, Checkpoint(1, [saved], [np.ones(2, "float32")], {}))
        variable = tf.Variable(tf.zeros([2]), name=own.split(":")[0])
        restore(latest(tmp_path), [variable])
        assert variable.numpy().tolist() == [1, 1]
