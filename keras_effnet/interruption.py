"""Ctrl-C in a command: one line and an exit status; no file is left half-written."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 75  # exit status, EX_TEMPFAIL: try again
_REPEAT_SECONDS = 1.0


def run_command(name: str, command: Callable[[], int]) -> int:
    """The exit status of a command; 75, after one line, if Ctrl-C (SIGINT) ended it.

    Libraries turn an interrupt into another exception, as TensorFlow does while it is imported, or
    lose it in a callback: it is repeated every second until the command ends.
    """
    timers = []

    def receive(number, frame):
        timers.append(threading.Timer(_REPEAT_SECONDS, _interrupt_main_thread))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    with _handling(receive, only_default=True):
        try:
            return command()
        except BaseException as error:
            if not timers and not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            for timer in timers:
                timer.cancel()
    print(f"{name}: interrupted; files are complete or not written", file=sys.stderr)
    return INTERRUPTED


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Delays SIGINT to the end of the block; in the main thread, which alone receives it."""
    received = []
    with _handling(lambda *arguments: received.append(arguments)) as previous:
        yield
    if received and callable(previous):
        previous(*received[0])


def _interrupt_main_thread():
    if hasattr(signal, "pthread_kill"):  # also ends a sleep
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def _handling(handler, only_default=False):
    """Handles SIGINT by `handler`, if possible; yields the previous handler."""
    previous = signal.getsignal(signal.SIGINT)
    is_default = previous is signal.default_int_handler
    if (
        threading.current_thread() is not threading.main_thread()
        or previous is None  # not installed from Python
        or (only_default and not is_default)
    ):
        yield previous
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield previous
    finally:
        signal.signal(signal.SIGINT, previous)
