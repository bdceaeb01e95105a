import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from keras_effnet import atomic_write, interruption
from keras_effnet.interruption import interrupts_deferred, run_command


def _interrupt():
    signal.raise_signal(signal.SIGINT)


def _swallow():
    try:
        _interrupt()
    except KeyboardInterrupt as error:
        raise ImportError("numpy cannot be imported") from error


def _raise():
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", [_interrupt, _swallow, _raise])
def test_an_interrupted_command_prints_one_line(command, capsys):
    assert run_command("effnet", command) == 75
    captured = capsys.readouterr()
    assert captured.err.startswith("effnet: interrupted")
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_results_of_a_command_are_unchanged():
    assert run_command("x", lambda: 2) == 2
    for error in (ValueError, SystemExit):
        with pytest.raises(error):
            run_command("x", lambda error=error: (_ for _ in ()).throw(error))


def test_an_interrupt_that_a_library_loses_is_repeated(monkeypatch, capsys):
    monkeypatch.setattr(interruption, "_REPEAT_SECONDS", 0.01)

    def command():
        with contextlib.suppress(KeyboardInterrupt):
            _interrupt()
        time.sleep(5)

    start = time.monotonic()
    assert run_command("effnet", command) == 75
    assert time.monotonic() - start < 4
    assert "interrupted" in capsys.readouterr().err


def test_a_terminated_command_prints_one_line(capsys):
    assert run_command("effnet", lambda: signal.raise_signal(signal.SIGTERM)) == 143
    captured = capsys.readouterr()
    assert captured.err == "effnet: terminated; files are complete or not written\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 75)])
def test_a_command_within_a_command_ends_as_one(number, status, capsys):
    def inner():
        return run_command("effnet-tflite", lambda: signal.raise_signal(number))

    assert run_command("effnet-tflite", inner) == status
    assert capsys.readouterr().err.count("\n") == 1
    assert interruption._running == []


def test_interrupts_wait_for_the_end_of_a_block():
    done = []

    def block():
        with interrupts_deferred():
            _interrupt()
            done.append("block")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["block"]


def test_other_threads_and_other_handlers_are_left_alone(monkeypatch):
    received = []
    monkeypatch.setattr(interruption.signal, "default_int_handler", None)  # as if not installed
    previous = signal.signal(signal.SIGINT, lambda *_: received.append(1))
    try:
        assert run_command("x", lambda: _interrupt() or 0) == 0
        with interrupts_deferred():
            _interrupt()
            assert len(received) == 1
        assert len(received) == 2
    finally:
        signal.signal(signal.SIGINT, previous)
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(run_command("x", lambda: 3)))
    thread.start()
    thread.join()
    assert statuses == [3]


def test_files_are_written_completely_before_an_interrupt(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted_replace(*paths):
        _interrupt()
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with pytest.raises(KeyboardInterrupt):
        atomic_write.write_files({str(tmp_path / "a"): b"1", str(tmp_path / "b"): b"2"})
    assert [(tmp_path / name).read_bytes() for name in sorted(os.listdir(tmp_path))] == [b"1", b"2"]


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write.replacing(tmp_path / "a"):
        _interrupt()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


# Ctrl-C as soon as a command imports the first large package.
_INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
from {package}.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("package", "name"),
    [("keras_effnet", "effnet"), ("tpu_train", "effnet-train"), ("tflite", "effnet-tflite")],
)
def test_ctrl_c_during_the_imports_of_a_command_is_one_line(package, name):
    code = _INTERRUPTED_IMPORT.format(package=package)
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 75, process.stderr
    assert process.stderr.startswith(f"{name}: interrupted")
    assert process.stderr.count("\n") == 1
