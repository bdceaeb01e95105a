"""``effnet-tflite``: converts models to .tflite and evaluates .tflite files."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keras_effnet.interruption import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 2 for bad input, 1 for a failed conversion, 75
    after Ctrl-C.
    """
    return run_command("effnet-tflite", lambda: _run(argv))


def _run(argv):
    # Imported here: imports take long, and Ctrl-C is handled by now.
    from keras_effnet.native_logs import filter_native_logs
    from keras_effnet.package_conflicts import check_package_conflicts

    if argv is None:  # run as a program
        from keras_effnet.completion import complete
        from tflite.cli import completion

        complete(completion.make_parser, completion.NAMES)
        filter_native_logs()
    try:
        check_package_conflicts()
    except ImportError as error:
        print(f"effnet-tflite: {error}", file=sys.stderr)
        return 2
    from tflite.cli import convert

    return convert.main(sys.argv[1:] if argv is None else argv)
