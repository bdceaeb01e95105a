"""Ctrl-C and SIGTERM in a command: one line and an exit status; no file is left half-written."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from keras_effnet.command_output import run_printing

INTERRUPTED = 75  # exit status, EX_TEMPFAIL: try again
TERMINATED = 128 + signal.SIGTERM  # as of a program that SIGTERM ended
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPEAT_SECONDS = 1.0
_running: list[str] = []  # names of the commands that handle signals, the outermost first


def run_command(name: str, command: Callable[[], int]) -> int:
    """The exit status of a command; after one line 75 if Ctrl-C (SIGINT) ended it, and 143 if
    SIGTERM did; otherwise as :func:`~keras_effnet.command_output.run_printing`.

    Libraries turn an interrupt into another exception, as TensorFlow does while it is imported, or
    lose it in a callback: it is repeated every second until the command ends. Of a command within
    another one, the outer one handles signals.
    """
    if _running and threading.current_thread() is threading.main_thread():
        return run_printing(name, command)
    timers, received = [], [signal.SIGINT]

    def receive(number, frame):
        received.append(number)
        timers.append(threading.Timer(_REPEAT_SECONDS, _signal_main_thread, (number,)))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    with _handling(receive, only_default=True):
        _running.append(name)
        try:
            return run_printing(name, command)
        except BaseException as error:
            if not timers and not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            _running.remove(name)
            for timer in timers:
                timer.cancel()
    terminated = received[-1] == signal.SIGTERM
    what = "terminated" if terminated else "interrupted"
    print(f"{name}: {what}; files are complete or not written", file=sys.stderr)
    return TERMINATED if terminated else INTERRUPTED


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Delays SIGINT and SIGTERM to the end of the block; in the main thread, which alone receives
    them.
    """
    received = []
    with _handling(lambda number, frame: received.append(number)):
        yield
    if received:
        signal.raise_signal(received[0])


@contextlib.contextmanager
def interrupts_end_the_process() -> Iterator[None]:
    """Lets SIGINT and SIGTERM end the process within the block, without a message.

    For calls that keep Python's lock for long: Python would handle a signal only after them.
    """
    with _handling(signal.SIG_DFL):
        yield


def _signal_main_thread(number):
    if hasattr(signal, "pthread_kill"):  # also ends a sleep
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def _handling(handler, only_default=False):
    """Handles SIGINT and SIGTERM by `handler`, each if that is possible."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is None or (only_default and before is not defaults[number]):
                continue  # not installed from Python; or somebody else's
            previous[number] = before
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
