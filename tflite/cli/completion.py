"""The arguments of all commands of ``effnet-tflite`` in one parser, for shell completion."""

from __future__ import annotations

from keras_effnet.arguments import ArgumentParser
from keras_effnet.completion import with_commands
from tflite.cli import compare, convert
from tflite.presets import PRESETS

NAMES = {"preset": lambda: PRESETS}


def make_parser() -> ArgumentParser:
    """A parser that shells complete with; it parses nothing."""
    return with_commands(
        convert.make_parser(),
        {"report": compare.make_report_parser(), "compare": compare.make_compare_parser()},
    )
