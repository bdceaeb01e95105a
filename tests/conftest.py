"""Shared by all tests: a tiny network and golden text files."""

import gc
import itertools
import os
import pathlib
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job, as under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from keras_effnet.variants import V2, Normalization, Stage, Variant

GOLDEN = pathlib.Path(__file__).parent / "golden"
_SHARED = pathlib.Path(__file__).parents[1].parent / "shared"
HOW_TO_UPDATE = """
If only the layout changed, rerun with UPDATE_GOLDEN=1 and read the diff. Do not accept a changed
number of a published network: released weights would no longer fit or would predict something
else. Do not accept a changed number of a published recipe unless its source states it."""

TINY = Variant(
    name="tiny",
    family=V2,
    stages=(
        Stage("fused", 3, 1, 1, 8, 1, 0.0),
        Stage("mbconv", 3, 2, 4, 16, 2, 0.25),
    ),
    stem_filters=8,
    width=1.0,
    depth=1.0,
    image_size=32,
    dropout_rate=0.2,
    top1=None,
    normalization=Normalization((128.0,) * 3, (128.0,) * 3),
    head_filters=32,
)


gc.disable()  # during the collection of the tests, of which nothing is garbage: it takes 5 s less


def pytest_collection_finish():
    """Excludes imported modules from garbage collection, which took 0.4 s at each phase's end."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Gives each test the same random weights in every run, in any order."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def tiny():
    """A V2 variant with a fused and an MBConv stage, for 32-pixel images."""
    return TINY


@pytest.fixture
def golden():
    """golden("plan_x.txt", text): asserts that the file holds text; UPDATE_GOLDEN=1 writes it."""

    def check(name, text):
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text + "\n", encoding="utf-8")
        expected = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = itertools.zip_longest(expected, text.splitlines())
        changes = [
            f"  line {number}:\n    golden {old!r}\n    now    {new!r}"
            for number, (old, new) in enumerate(lines, start=1)
            if old != new
        ]
        assert not changes, f"{name} has changed:\n" + "\n".join(changes[:20]) + HOW_TO_UPDATE

    return check


@pytest.fixture
def shared():
    """A folder with trained networks and real data; a test without it is skipped."""
    folder = pathlib.Path(os.environ.get("KERAS_EFFNET_SHARED", _SHARED))
    if not folder.is_dir():
        pytest.skip(
            f"{folder} does not exist; set KERAS_EFFNET_SHARED to the folder of shared data"
        )
    return folder
