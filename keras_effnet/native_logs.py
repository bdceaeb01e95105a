"""Filter for the start-up log of native libraries (TensorFlow, XLA, CUDA, LiteRT) on stderr.

Some of these lines are errors by their level, and some are printed before the library reads its
log level, so ``TF_CPP_MIN_LOG_LEVEL`` alone does not hide them. They are written to file descriptor
2 by C++ code. That descriptor is replaced by a pipe to a small process, which drops the known lines
and passes on all others. It is a process and not a thread, because the last words of a crash must
be printed after the crash. Python's ``sys.stderr`` keeps writing to the original descriptor, so
tracebacks and progress bars do not pass through the filter.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import subprocess
import sys

_SEVERITIES = b"IWE"  # hidden by TF_CPP_MIN_LOG_LEVEL=1, 2 and 3
_NOISE = re.compile(
    b"|".join(
        (
            rb"^WARNING: (All log messages|Logging) before \S+ is (called|written)",
            rb"failed call to cuInit",
            rb"Unable to register cu(DNN|FFT|BLAS) factory",
            rb"computation placer already registered",
            rb"SetPriority unimplemented for this stream",  # XLA on a CPU in TensorFlow 2.15
            rb"oneDNN supports \S+ only on platforms with .* Falling back",
            rb"^To enable the following instructions: .* rebuild TensorFlow",
            rb"Created TensorFlow Lite XNNPACK delegate",
        )
    )
)


def filter_native_logs() -> None:
    """Hides the known start-up lines of native libraries on stderr for the rest of the process.

    Call it first in a program, before TensorFlow is imported. Native errors that are not known
    noise, crash messages and Python's output still appear. ``TF_CPP_MIN_LOG_LEVEL`` is 2 (errors)
    unless it is set; with 0 nothing is filtered.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if level == "0":
        return
    _hide_python_warnings_of_absl()
    try:
        sys.stderr.flush()
        original = os.dup(2)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), level],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a reader of this program's stdout must not wait for it
            start_new_session=True,  # Ctrl-C must not end it before this process
        )
    except (OSError, ValueError, AttributeError):  # no stderr, or no way to start a process
        return
    if sys.stderr is sys.__stderr__:  # not in a notebook, where it is no descriptor
        sys.stderr = sys.__stderr__ = os.fdopen(
            original, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
        )
        if faulthandler.is_enabled():
            faulthandler.enable(sys.stderr)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    atexit.register(_stop, process, original)


def _hide_python_warnings_of_absl():
    try:
        from absl import logging
    except ImportError:
        return
    logging.set_verbosity(logging.ERROR)


def _stop(process, original):
    """Restores the descriptor, and waits until the filter has passed on everything."""
    os.dup2(original, 2)
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:  # a child process still holds the pipe
        process.returncode = 0  # no ResourceWarning


def is_noise(line: bytes, level: str = "2") -> bool:
    """Whether a line on stderr is hidden at a ``TF_CPP_MIN_LOG_LEVEL``.

    >>> is_noise(b"I0000 00:00:1795746879.685444   16884 port.cc:153] oneDNN custom ... are on.")
    True
    >>> is_noise(b"2026-11-27 02:36:36.567: E tensorflow/core/framework/op.cc:1] Out of memory")
    False
    """
    hidden = _SEVERITIES[: int(level)] if level.isdigit() else _SEVERITIES[:2]
    prefix = re.match(rb"([IWEF])\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) ", line)
    severity = prefix and (prefix[1] or prefix[2])
    return bool(severity and severity in hidden) or bool(_NOISE.search(line))


def _filter(level):
    """Copies stdin to stderr without the noise, until all writers have closed the pipe."""
    rest = b""
    while True:
        block = os.read(0, 65536)
        *lines, rest = (rest + block).split(b"\n")
        if not block:
            lines = [rest] if rest else []
        passed = [line + b"\n" for line in lines if not is_noise(line, level)]
        if passed:
            os.write(2, b"".join(passed))
        if not block:
            return


if __name__ == "__main__":
    _filter(sys.argv[1])
