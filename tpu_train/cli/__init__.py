"""Command lines of the trainer: flags only; the work is done by the other sub-packages.

``effnet-train [prepare|gallery|plan|doctor] --flag=value ...``; without a command it trains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keras_effnet.native_logs import filter_native_logs

COMMANDS = ("prepare", "gallery", "plan", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns the exit status."""
    if argv is None:  # run as a program
        filter_native_logs()
        argv = sys.argv[1:]
    command = argv[0] if argv else ""
    # Imported when needed: each command imports only its own flags.
    if command == "prepare":
        from tpu_train.cli.prepare import main as run
    elif command == "gallery":
        from tpu_train.cli.gallery import main as run
    elif command == "plan":
        from tpu_train.cli.plan import main as run
    elif command == "doctor":
        from tpu_train.cli.doctor import main as run
    else:
        from tpu_train.cli.train import main as run

        return run(argv)
    return run(argv[1:])
