"""Command lines of the trainer: they parse flags and call the modules that do the work.

``effnet-train [prepare|preview|plan|doctor] --flag=value ...``; without a command it trains.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from keras_effnet.command_output import run_printing
from keras_effnet.native_logs import filter_native_logs

COMMANDS = ("prepare", "preview", "plan", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named by the first argument; returns the exit status."""
    if argv is None:  # run as a program
        filter_native_logs()
    # TensorFlow reads it when it is imported. Its default on x86 is oneDNN only for processors
    # with AVX-512 VNNI; on others a training step is almost three times faster with it
    # (docs/results/step-throughput.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    # Imported when needed: each command imports only its own flags.
    if command == "prepare":
        from tpu_train.cli.prepare import main as run
    elif command == "preview":
        from tpu_train.cli.preview import main as run
    elif command == "plan":
        from tpu_train.cli.plan import main as run
    elif command == "doctor":
        from tpu_train.cli.doctor import main as run
    else:
        from tpu_train.cli.train import main as run

        return _run(run, argv)
    return _run(run, argv[1:])


def _run(command, argv):
    try:
        return run_printing("effnet-train", lambda: command(argv))
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
