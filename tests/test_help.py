"""The help of every command: flags in groups, examples that work, defaults, 80 columns."""

import argparse
import contextlib
import re
import shlex

import pytest

from keras_effnet.cli import commands
from keras_effnet.interruption import INTERRUPTED, TERMINATED
from tpu_train.cli import command_module, recipe_flags
from tpu_train.cli import completion as training
from tpu_train.recipes.table import RECIPES

EXAMPLE = re.compile(r"  (effnet(?:-train|-tflite)? (?:.* \\\n +)*.*)")


def _parsers():
    """(command, parser) of all commands."""
    yield from _with_subcommands(commands.make_parser())
    yield from _with_subcommands(training.make_parser())
    try:
        from tflite.cli import completion as conversion
    except ImportError:  # without the extra `tflite`
        return
    yield from _with_subcommands(conversion.make_parser())


def _with_subcommands(parser):
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield subparser.prog, subparser


PARSERS = dict(_parsers())
COMMANDS = pytest.mark.parametrize("command", PARSERS)


def _groups(parser):
    """(title, example, actions) of the groups that have flags."""
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest not in ("help", "version")]
        if actions and not isinstance(actions[0], argparse._SubParsersAction):
            yield group.title, group.description, actions


@COMMANDS
def test_every_flag_is_in_a_group_with_an_example(command):
    for title, example, actions in _groups(PARSERS[command]):
        names = [action.dest for action in actions]
        assert title not in ("positional arguments", "options", "other flags"), names
        assert example.startswith(command), (title, names)


@COMMANDS
def test_every_example_of_the_help_is_accepted(command):
    text = PARSERS[command].format_help()
    examples = [shlex.split(e.replace("\\\n", "")) for e in EXAMPLE.findall(text)]
    assert len(examples) >= len(list(_groups(PARSERS[command])))
    own = command.split()
    for words in [words[len(own) :] for words in examples if words[: len(own)] == own]:
        if own[0] == "effnet-train":
            module = command_module(own[1] if own[1:] else "")
            assert recipe_flags.parse(module.define(), command, words, "")
        else:
            PARSERS[command].parse_args(words)


@COMMANDS
def test_help_has_80_columns_and_the_defaults(command):
    text = PARSERS[command].format_help()
    assert max(map(len, text.splitlines())) <= 80
    joined = "".join(text.split())
    for action in PARSERS[command]._actions:
        if action.option_strings and action.default not in (None, False, "", argparse.SUPPRESS, []):
            described = action.help.replace("%%", "%")
            assert "default:" in described or f"(default:{action.default})" in joined, action.dest


@COMMANDS
def test_help_ends_with_the_exit_statuses(command):
    end = PARSERS[command].format_help().partition("exit status:\n")[2]
    statuses = [int(line.split()[0]) for line in end.splitlines()]
    assert statuses == [0, 1, 2, INTERRUPTED, TERMINATED]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        *(("keras_effnet", []), ("tflite", []), ("tpu_train", [])),
        ("tpu_train", ["--recipe=digits"]),
    ],
)
def test_each_program_shows_the_versions(program, words, capsys):
    main = pytest.importorskip(f"{program}.cli").main
    with contextlib.suppress(SystemExit):
        main([*words, "--version"])
    assert re.match(r"keras_effnet \d.*, python 3.*, keras \d", capsys.readouterr().out)


def test_recipe_flags_have_the_value_of_the_chosen_recipe(capsys):
    values = command_module("").define()
    words = ["--recipe=digits", "--help"]
    assert not recipe_flags.parse(values, "effnet-train", words, "Trains.")
    text = " ".join(capsys.readouterr().out.split())
    assert f"passes over the training images (digits: {RECIPES['digits'].epochs:g})" in text
