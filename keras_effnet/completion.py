"""Shell completion of the commands: argcomplete asks their parsers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from keras_effnet.arguments import ArgumentParser

Names = Mapping[str, Callable[[], Iterable[str]]]


def complete(make_parser: Callable[[], ArgumentParser], names: Names) -> None:
    """Prints the candidates and exits, if a shell asks for them; otherwise does nothing.

    Arguments in `names`, e.g. ``"model"``, complete to these names and to files, other text to
    files. Ask for completion before anything slow is imported.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete  # the shell function that asks belongs to it

    parser = make_parser()
    for action in _actions(parser):
        if action.dest in names:
            action.completer = _names_or_files(names[action.dest]())
    argcomplete.autocomplete(parser, always_complete_options="long")


def with_commands(parser: ArgumentParser, commands: Mapping[str, ArgumentParser]) -> ArgumentParser:
    """`parser`, which then also has commands with the arguments of other parsers."""
    subparsers = parser.add_subparsers(required=False)
    for name, command in commands.items():
        subparsers.add_parser(name, parents=[command], add_help=False)
    return parser


def _actions(parser):
    for action in parser._actions:
        yield action
        for command in (action.choices or {}).values() if action.nargs == "A..." else ():
            yield from _actions(command)


def _names_or_files(names):
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter()

    def candidates(prefix, **_):
        found = [name for name in names if name.startswith(prefix)]
        return found + list(files(prefix))

    return candidates
