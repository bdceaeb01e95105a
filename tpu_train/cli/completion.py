"""The flags of all commands of ``effnet-train`` in one parser, for shell completion."""

from __future__ import annotations

from keras_effnet.arguments import ArgumentParser
from keras_effnet.completion import with_commands
from keras_effnet.variants import NETWORKS
from tpu_train.cli import COMMANDS, command_module
from tpu_train.cli.flag_parser import make_parser as make_flag_parser
from tpu_train.recipes.table import RECIPES

NAMES = {"model": lambda: NETWORKS, "recipe": lambda: RECIPES}


def make_parser() -> ArgumentParser:
    """A parser that shells complete with; it parses nothing."""
    return with_commands(_parser(""), {command: _parser(command) for command in COMMANDS})


def _parser(command):
    module, name = command_module(command), f"effnet-train {command}".rstrip()
    return make_flag_parser(module.define(), name, module.INTRODUCTION, module.GROUPS)
