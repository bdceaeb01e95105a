"""Progress of a conversion: a line for each stage, and one every ten seconds while a stage runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

SECONDS = 10.0  # without a line


@contextlib.contextmanager
def progress_lines(
    write: Callable[[str], None] | None = None, *, seconds: float | None = SECONDS
) -> Iterator[Callable[[str], None]]:
    """A function that prints a line of text; while it is not called, the last stage is printed
    again with its time.

    A stage is a line that is not indented. Only whole lines are printed, so that the output is
    readable in a file, too.

    Args:
        write: prints a line. Default: ``print``, at once.
        seconds: between two lines; None prints nothing by itself.
    """
    write = write or (lambda line: print(line, flush=True))
    state = {"stage": "", "since": time.monotonic(), "last": time.monotonic()}
    ended = threading.Event()

    def log(line):
        now = time.monotonic()
        state["last"] = now
        if not line.startswith(" "):
            state.update(stage=line, since=now)
        write(line)

    def repeat():
        while not ended.wait(max(0.01, state["last"] + seconds - time.monotonic())):
            now = time.monotonic()
            if now - state["last"] >= seconds and state["stage"]:
                state["last"] = now
                try:
                    write(f"  ... {now - state['since']:.0f} s: {state['stage']}")
                except (OSError, ValueError):  # the output is closed: the command finds that, too
                    return
            elif not state["stage"]:
                state["last"] = now

    if seconds is None:
        yield log
        return
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()
