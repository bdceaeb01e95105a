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
from tpu_train.checkpointing.storage import Checkpoint, FormatError, latest, restore, save

pytestmark = pytest.mark.every_stack

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
    """A local folder, and one of a file system without atomic renames."""
    if request.param == "disk":
        yield str(tmp_path / "checkpoints")
    else:
        path = f"ram://{tmp_path.name}/checkpoints"
        yield path
        tf.io.gfile.rmtree(f"ram://{tmp_path.name}")


def _damage(path, how):
    if how == "missing":
        tf.io.gfile.remove(path)
        return
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    _replace(path, content[:20] if how == "truncated" else content.replace(b"2", b"3"))


def _replace(path, content):
    tf.io.gfile.remove(path)  # ram:// overwrites bytes without truncating the file
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def test_a_checkpoint_is_read_bit_identically(folder):
    save(folder, _checkpoint(7))
    restored = latest(folder)
    assert (restored.step, restored.names, restored.notes["phases"]) == (7, NAMES, [7])
    for value, expected in zip(restored.values, _checkpoint(7).values):
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        assert value.tobytes() == expected.tobytes()


def test_the_digest_identifies_the_state(folder):
    save(folder, _checkpoint(7))
    digest = latest(folder).digest
    save(folder, _checkpoint(7))
    assert latest(folder).digest == digest
    save(folder, _checkpoint(8))
    assert latest(folder).digest != digest


def test_an_empty_or_missing_folder_has_no_checkpoint(folder):
    assert latest(folder) is None
    tf.io.gfile.makedirs(folder)
    assert latest(folder) is None


def test_the_last_two_checkpoints_are_kept(folder):
    for step in (1, 2, 30, 1_000_000_000):
        save(folder, _checkpoint(step))
    assert sorted(tf.io.gfile.listdir(folder)) == ["step-000000030", "step-1000000000"]
    assert latest(folder).step == 1_000_000_000


def test_the_best_checkpoint_is_kept(folder):
    for step in (1, 2, 3, 4, 5):
        save(folder, _checkpoint(step, best={"step": 2 if step >= 2 else 1}))
    assert [step for step, _ in storage._saved(folder)] == [2, 4, 5]


def test_the_previous_best_is_kept_while_a_kept_checkpoint_names_it(folder):
    """If the newest is corrupt, the previous one must still find its best."""
    for step, best in ((1, 1), (2, 1), (3, 3)):
        save(folder, _checkpoint(step, best={"step": best}))
    assert [step for step, _ in storage._saved(folder)] == [1, 2, 3]
    save(folder, _checkpoint(4, best={"step": 3}))
    assert [step for step, _ in storage._saved(folder)] == [3, 4]


def test_newer_checkpoints_are_removed_after_a_rollback(folder):
    for step in (1, 2, 9):
        save(folder, _checkpoint(step))
    save(folder, _checkpoint(3))  # after a rollback
    assert [step for step, _ in storage._saved(folder)] == [2, 3]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((f, d) for f in storage._FILES for d in ("truncated", "missing", "changed")),
        ("manifest.json", "truncated"),
        ("manifest.json", "missing"),
    ],
)
def test_a_corrupt_checkpoint_is_skipped_for_the_previous_one(folder, file, damage):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    _damage(f"{folder}/step-000000002/{file}", damage)
    lines = []
    assert latest(folder, lines.append).step == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"skipping corrupt checkpoint {folder}/step-000000002: ")


def test_checkpoints_that_are_replaced_while_they_are_read(folder, monkeypatch):
    """By a run that continues while its weights are exported."""
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    read, lines = storage._read, []

    def slow_read(step, path):
        if step == 2:
            save(folder, _checkpoint(3))
            save(folder, _checkpoint(4))
        return read(step, path)

    monkeypatch.setattr(storage, "_read", slow_read)
    assert latest(folder, lines.append).step == 4
    assert not lines


def test_it_is_an_error_if_all_checkpoints_are_corrupt(folder):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    for step in (1, 2):
        _damage(f"{folder}/step-00000000{step}/variables.npz", "truncated")
    with pytest.raises(ValueError, match=r"None of .*step-000000002, step-000000001.*--overwrite"):
        latest(folder, lambda line: None)


def test_an_unfinished_first_checkpoint_does_not_count(folder):
    save(folder, _checkpoint(1))
    _damage(f"{folder}/step-000000001/manifest.json", "missing")
    lines = []
    assert latest(folder, lines.append) is None
    assert "corrupt checkpoint" in lines[0]
    assert "step-000000001" in lines[0]


def test_another_format_is_an_error(folder):
    save(folder, _checkpoint(1))
    save(folder, _checkpoint(2))
    manifest = json.dumps({"variables.npz": "0", "notes.json": "0"})
    _replace(f"{folder}/step-000000002/manifest.json", manifest.encode())
    with pytest.raises(FormatError, match=r"step-000000002 .* \(format 1, this one reads 3\)"):
        latest(folder)


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["_to_disk", "_sha256", "_folder_to_disk"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, where):
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
def test_a_disk_that_fills_while_writing_leaves_no_partial_file(tmp_path, monkeypatch, bytes_left):
    save(tmp_path, _checkpoint(1))
    monkeypatch.setattr(_SmallDisk, "left", bytes_left)
    monkeypatch.setattr(storage, "_open", _SmallDisk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, _checkpoint(2))
    gc.collect()  # the unfinished archive must not write again
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_a_failing_object_store_is_an_oserror(tmp_path, monkeypatch):
    folder = f"ram://{tmp_path.name}"
    save(folder, _checkpoint(1))

    def unavailable(path, value):
        raise tf.errors.UnavailableError(None, None, "try again later")

    monkeypatch.setattr(storage, "_write_json", unavailable)
    with pytest.raises(OSError, match="step-000000002: try again later"):
        save(folder, _checkpoint(2))
    assert tf.io.gfile.listdir(folder) == ["step-000000001"]


def test_a_checkpoint_that_reads_back_differently_is_discarded(tmp_path, monkeypatch):
    save(tmp_path, _checkpoint(1))
    monkeypatch.setattr(storage, "_storable", lambda value: np.zeros(3))
    real = storage._sha256
    monkeypatch.setattr(storage, "_sha256", lambda path: real(path)[::-1])
    with pytest.raises(OSError, match=r"variables.npz reads back differently"):
        save(tmp_path, _checkpoint(2))
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_a_partial_folder_left_by_a_kill_is_removed(tmp_path):
    save(tmp_path, _checkpoint(1))
    partial = pathlib.Path(tmp_path / ".partial-000000002")
    partial.mkdir()
    (partial / "variables.npz").write_bytes(b"half")
    assert latest(tmp_path).step == 1
    save(tmp_path, _checkpoint(2))
    assert latest(tmp_path).step == 2
    assert not partial.exists()


def test_on_disk_a_checkpoint_is_visible_only_when_complete(tmp_path, monkeypatch):
    visible = []
    real = storage._write_json
    monkeypatch.setattr(
        storage, "_write_json", lambda *a: visible.append(latest(tmp_path)) or real(*a)
    )
    save(tmp_path, _checkpoint(1))
    assert visible == [None] * 3


def test_in_an_object_store_the_manifest_is_written_last(tmp_path, monkeypatch):
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


def test_variables_are_restored_bit_identically(folder):
    save(folder, _checkpoint(7))
    variables = _variables()
    restore(latest(folder), variables)
    for variable, expected in zip(variables, _checkpoint(7).values):
        assert variable.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("place", "other", "message"),
    [
        (0, tf.Variable(tf.zeros([2, 3]), name="head/kernel"), r"stem_conv/kernel .*head/kernel"),
        (0, tf.Variable(tf.zeros([3, 2]), name="stem_conv/kernel"), r"float32 2x3.*float32 3x2"),
        (2, tf.Variable(0, dtype=tf.int32, name="count"), r"int64 scalar.*int32 scalar"),
    ],
)
def test_variables_of_another_network_are_refused_unchanged(tmp_path, place, other, message):
    save(tmp_path, _checkpoint(7))
    variables = _variables()
    variables[place] = other
    with pytest.raises(
        ValueError, match=rf"step-000000007 belongs to another .*variable {place} is .*{message}"
    ):
        restore(latest(tmp_path), variables)
    assert all(not v.numpy().any() for v in variables)


def test_another_number_of_variables_is_refused(tmp_path):
    save(tmp_path, _checkpoint(7))
    with pytest.raises(ValueError, match="it has 4 variables, this network has 3"):
        restore(latest(tmp_path), _variables()[:3])


def test_the_numbers_of_unnamed_layers_are_ignored(tmp_path):
    for saved, current in (("conv2d/kernel", "conv2d_12/kernel"), ("dense_3/bias", "dense/bias:0")):
        save(tmp_path, Checkpoint(1, [saved], [np.ones(2, "float32")], {}))
        variable = tf.Variable(tf.zeros([2]), name=current.split(":")[0])
        restore(latest(tmp_path), [variable])
        assert variable.numpy().tolist() == [1, 1]
