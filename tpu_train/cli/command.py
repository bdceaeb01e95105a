"""Runs a command of ``effnet-train``: parses its flags, reports bad input, says how to resume."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import flags

from keras_effnet.pretrained.download import DownloadError
from tpu_train.checkpointing.preemption import STOPPED
from tpu_train.cli import recipe_flags
from tpu_train.cli.flag_parser import Groups


def run(
    name: str,
    argv: Sequence[str] | None,
    values: flags.FlagValues,
    introduction: str,
    groups: Groups,
    act: Callable[[flags.FlagValues], int],
) -> int:
    """The exit status of ``act(values)`` with the flags of `argv` (default: of this process).

    Prints one line and returns 2 for bad input.
    """
    try:
        rest = list(sys.argv[1:] if argv is None else argv)
        if not recipe_flags.parse(values, name, rest, introduction, groups):
            return 0
        return act(values)
    except (flags.Error, ValueError, DownloadError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def resumable(
    act: Callable[[flags.FlagValues], int], values: flags.FlagValues, where: str = ""
) -> int:
    """The exit status of ``act(values)``; after Ctrl-C 75, and one line on where it resumes."""
    try:
        return act(values)
    except KeyboardInterrupt:
        print(f"\nStopped: the same command resumes{where}", file=sys.stderr)
        return STOPPED
