"""The flags of all commands of ``effnet-train`` in one parser, for shell completion."""

from __future__ import annotations

from keras_effnet.arguments import ArgumentParser
from keras_effnet.completion import with_commands
from keras_effnet.variants import NETWORKS
from tpu_train.cli import doctor, noisy_student, plan, prepare, preview, pseudo_label, search, train
from tpu_train.cli.flag_parser import make_parser as make_flag_parser
from tpu_train.recipes.table import RECIPES

NAMES = {"model": lambda: NETWORKS, "recipe": lambda: RECIPES}
MODULES = {
    "prepare": prepare,
    "preview": preview,
    "plan": plan,
    "search": search,
    "pseudo-label": pseudo_label,
    "noisy-student": noisy_student,
    "doctor": doctor,
}


def make_parser() -> ArgumentParser:
    """A parser that shells complete with; it parses nothing."""
    return with_commands(
        _parser("effnet-train", train),
        {name: _parser(f"effnet-train {name}", module) for name, module in MODULES.items()},
    )


def _parser(command, module):
    return make_flag_parser(module.define(), command, module.INTRODUCTION, module.GROUPS)
