"""``effnet``: lists models and weights, computes costs, classifies images, evaluates models."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keras_effnet.interruption import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failed check, 2 for bad
    input, 75 after Ctrl-C.
    """
    return run_command("effnet", lambda: _run(argv))


def _run(argv):
    # Imported here: imports take long, and Ctrl-C is handled by now.
    from keras_effnet.cli import commands
    from keras_effnet.completion import complete
    from keras_effnet.native_logs import filter_native_logs

    if argv is None:  # run as a program
        complete(commands.make_parser, commands.NAMES)
        filter_native_logs()
    return commands.run(sys.argv[1:] if argv is None else argv)
