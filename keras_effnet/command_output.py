"""Output of a command: a reader that has gone, and terminals that lack a character."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

READER_GONE = 141  # exit status, as of a program that SIGPIPE ended: `effnet models | head -1`


def run_printing(name: str, command: Callable[[], int]) -> int:
    r"""The exit status of a command that prints; 141, silently, if nobody reads its output.

    A character that the terminal's encoding lacks is printed as an escape, e.g. ``\xe4``, and is
    no error.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # none, a notebook's, or closed
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if not _stdout_is_broken():
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        return READER_GONE


def _stdout_is_broken():
    """Whether standard output has no reader; then it is discarded from now on."""
    try:
        sys.stdout.flush()
        return False
    except BrokenPipeError:
        discarded = os.open(os.devnull, os.O_WRONLY)
        os.dup2(discarded, sys.stdout.fileno())  # or Python complains when it ends
        os.close(discarded)
        return True
    except (AttributeError, OSError, ValueError):
        return False
