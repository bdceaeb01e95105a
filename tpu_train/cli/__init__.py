"""Command lines of the trainer: they parse flags and call the modules that do the work.

``effnet-train [COMMAND] --flag=value ...``; without a command (``COMMANDS``) it trains.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Sequence

from keras_effnet.interruption import run_command
from keras_effnet.provenance import version_text
from keras_effnet.suggestions import did_you_mean

COMMANDS = ("prepare", "preview", "plan", "search", "pseudo-label", "noisy-student", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named by the first argument; returns the exit status."""
    return run_command("effnet-train", lambda: _run(argv))


def _run(argv):
    if argv is None:  # run as a program
        from keras_effnet.completion import complete
        from keras_effnet.native_logs import filter_native_logs
        from tpu_train.cli import completion

        complete(completion.make_parser, completion.NAMES)
        filter_native_logs()
    # TensorFlow reads it when it is imported. Its default on x86 is oneDNN only for processors
    # with AVX-512 VNNI; on others a training step is almost three times faster with it
    # (docs/results/step-throughput.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    if command not in COMMANDS:
        if "--version" in argv:
            print(version_text())
            return 0
        near = "" if command.startswith("-") else did_you_mean(command, COMMANDS)
        if near:
            print(f"effnet-train: {command!r} is not a command.{near}", file=sys.stderr)
            return 2
        command = ""
    # Imported when needed: imports take long, and Ctrl-C is handled by now.
    module = command_module(command)
    try:
        return module.main(argv[1:] if command else argv)
    except BrokenPipeError:
        raise  # nobody reads the output
    except Exception as error:
        message = failure_message(error)
        if message is None:  # an error of this package: its traceback says where
            raise
        print(f"{f'effnet-train {command}'.rstrip()}: {message}", file=sys.stderr)
        return 1


def command_module(command: str) -> types.ModuleType:
    """The module of a command; of the training for ""."""
    return importlib.import_module(f"tpu_train.cli.{(command or 'train').replace('-', '_')}")


def failure_message(error):
    """One line about a failure of the disk, of the memory or of a device; None for others."""
    kinds = [OSError, MemoryError]
    if "tensorflow" in sys.modules:
        kinds.append(sys.modules["tensorflow"].errors.OpError)
    if not isinstance(error, tuple(kinds)):
        return None
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    lines = [line for line in text.splitlines() if line.strip()]
    memory = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return f"{'out of memory: lower --batch_size. ' * memory}{lines[0]}"
