import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tflite
from tflite.quantization import calibration, calibration_cache
from tflite.quantization.calibration_cache import NO_CACHE, CalibrationCache, default_folder

_IMAGES = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)


@pytest.fixture
def lines():
    """The logged lines."""
    return []


@pytest.fixture
def cache(tmp_path, lines):
    """An empty cache."""
    return CalibrationCache(tmp_path / "cache", log=lines.append)


def _get(cache, value=1.0, model=b"model", images=_IMAGES, kind="x"):
    """(what the cache gives, whether it was computed)."""
    computed = []

    def compute():
        computed.append(True)
        return {"a": np.full(3, value), "names": np.array(["x", "yy"])}

    return cache.arrays(kind, model, images, compute), bool(computed)


def _only_entry(cache):
    (path,) = cache.folder.iterdir()
    return path


def test_arrays_are_computed_once(cache, lines):
    first, computed = _get(cache)
    assert computed
    assert lines == []
    again, computed = _get(cache, value=2.0)
    assert not computed
    assert lines == [f"  Cache: from {_only_entry(cache)}"]
    for name in first:
        np.testing.assert_array_equal(again[name], first[name])
        assert again[name].dtype == first[name].dtype


@pytest.mark.parametrize(
    "other",
    [{"model": b"other"}, {"images": _IMAGES + 1}, {"images": _IMAGES[:, :2]}, {"kind": "y"}],
    ids=["model", "pixels", "size", "kind"],
)
def test_other_input_is_another_entry(cache, other):
    _get(cache)
    assert _get(cache, **other)[1]
    assert not _get(cache)[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\0" * len(content),
        lambda content: b"not an archive",
        lambda content: content[:200] + bytes([content[200] ^ 255]) + content[201:],
    ],
    ids=["empty", "truncated", "zeros", "text", "one byte"],
)
def test_damaged_entry_is_ignored_with_one_line_and_rebuilt(cache, lines, damage):
    _get(cache)
    path = _only_entry(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert _get(cache)[1]
    assert len(lines) == 1
    assert "cannot be read" in lines[0]
    assert "\n" not in lines[0]
    assert not _get(cache)[1]


def test_entry_of_pickled_objects_is_not_loaded(cache, lines):
    _get(cache)
    np.savez(_only_entry(cache), a=np.array([{}], object))
    assert _get(cache)[1]
    assert "cannot be read" in lines[0]


def test_entry_of_another_version_is_ignored_with_one_line(cache, lines, monkeypatch):
    _get(cache)
    monkeypatch.setattr(calibration_cache.keras_effnet, "__version__", "99")
    assert _get(cache)[1]
    assert lines == [f"  Cache: {_only_entry(cache).name} is of another version; calibrating again"]
    assert not _get(cache)[1]


@pytest.mark.parametrize("obstacle", ["file", "folder at the entry"])
def test_cache_that_cannot_be_written_costs_one_line(cache, lines, obstacle):
    if obstacle == "file":
        cache.folder.write_bytes(b"")
    else:
        _get(cache)
        path = _only_entry(cache)
        path.unlink()
        path.mkdir()
        lines.clear()
    assert _get(cache)[1]
    assert len(lines) <= 2
    assert "continuing without it" in lines[-1]


def test_least_recently_used_entries_are_deleted_above_the_limit(cache):
    for i, model in enumerate((b"a", b"b", b"c")):
        _get(cache, model=model)
        for path in cache.folder.iterdir():
            if path.stat().st_mtime > 1000:
                os.utime(path, (i + 1, i + 1))
    _get(cache, model=b"a")  # is used now
    size = max(path.stat().st_size for path in cache.folder.iterdir())
    small = CalibrationCache(cache.folder, max_bytes=2 * size + 10)
    _get(small, model=b"d")
    assert len(list(cache.folder.iterdir())) == 2
    assert not _get(small, model=b"a")[1]
    assert not _get(small, model=b"d")[1]


def test_an_entry_larger_than_the_limit_stays_alone(cache):
    small = CalibrationCache(cache.folder, max_bytes=1)
    _get(small)
    _get(small, model=b"b")
    assert not _get(small, model=b"b")[1]
    assert _get(small)[1]


def test_no_cache_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert _get(NO_CACHE)[1]
    assert _get(NO_CACHE)[1]
    assert not os.listdir(tmp_path)


def test_folder_is_in_the_cache_of_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "keras_effnet" / "calibration"
    monkeypatch.delenv("KERAS_HOME")
    assert default_folder() == pathlib.Path.home() / ".keras" / "keras_effnet" / "calibration"


_WRITER = """
import sys, pathlib, numpy as np
from tflite.quantization.calibration_cache import CalibrationCache
cache = CalibrationCache(pathlib.Path(sys.argv[1]), max_bytes=3000, log=print)
for i in range(40):
    images = np.full((1, 4, 4, 3), i % 3, np.uint8)
    got = cache.arrays("x", b"model", images, lambda: {"a": np.full(50, float(i % 3))})
    assert (got["a"] == i % 3).all()
"""


def test_two_processes_share_a_cache(tmp_path):
    folder = str(tmp_path / "cache")
    command = [sys.executable, "-c", _WRITER, folder]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "cannot be" not in out
    assert not [name for name in os.listdir(folder) if not name.endswith(".npz")]


def test_histograms_from_the_cache_are_the_same(trained_v1, photos, cache, lines):
    first = calibration.cached_histograms(cache, trained_v1, photos[:4])
    again = calibration.cached_histograms(cache, trained_v1, photos[:4])
    assert len(lines) == 1
    assert list(first) == list(again)
    for one, two in zip(first.values(), again.values()):
        assert (one.low, one.high, one.width) == (two.low, two.high, two.width)
        for field in ("counts", "weights", "channel_low", "channel_high"):
            values = getattr(one, field), getattr(two, field)
            np.testing.assert_array_equal(*values)
            assert values[0].dtype == values[1].dtype


def test_result_has_the_same_bytes_with_and_without_the_cache(
    trained_v1, photos, tmp_path, monkeypatch, lines
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    quick = {"calibration": photos[:16], "search_evaluations": 0, "log": lines.append}
    models = []
    for cache in (False, True, True):
        models.append(tflite.convert(trained_v1, cache=cache, **quick).tflite_model)
    assert models[0] == models[1] == models[2]
    assert len([line for line in lines if "Cache: from" in line]) == 2  # histograms and scores
    assert len(os.listdir(default_folder())) == 2
