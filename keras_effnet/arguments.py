"""The argument parser of all commands: help in groups, underscores or hyphens, hints for typos.

Help prints every flag with underscores (``--image_size``); ``--image-size`` means the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence

from keras_effnet.provenance import version_text
from keras_effnet.suggestions import did_you_mean

EXIT_STATUS = """\
exit status:
  0    success
  1    a run, a conversion or a check failed
  2    invalid input: flags, files or settings; nothing was changed
  75   stopped by Ctrl-C, a time limit or a preemption: repeat the command
  143  stopped by SIGTERM; files are complete or not written"""
_COLUMNS = 80
_NO_DEFAULT = (None, False, "", argparse.SUPPRESS)  # defaults that help does not print


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help at 80 columns, with the default of each flag."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=26, width=_COLUMNS)

    def _fill_text(self, text, width, indent):
        lines = (textwrap.wrap(line, width - len(indent)) or [""] for line in text.splitlines())
        return "\n".join(indent + line if line else line for wrapped in lines for line in wrapped)

    def _get_help_string(self, action):
        text = action.help or ""
        if not action.option_strings or "default:" in text:
            return text
        if action.required:
            return f"{text} (required)"
        shown = not any(action.default is none for none in _NO_DEFAULT) and action.default != []
        return f"{text} (default: %(default)s)" if shown else text


class _Version(argparse.Action):
    """Prints the versions and exits."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(version_text())
        parser.exit()


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser that raises ``ValueError`` for bad arguments instead of exiting.

    >>> parser = ArgumentParser(prog="effnet")
    >>> _ = parser.add_argument("--image_size", type=int)
    >>> parser.parse_args(["--image-size=64"]).image_size
    64
    >>> parser.parse_args(["--image_sise=64"])
    Traceback (most recent call last):
    ValueError: Unknown flag '--image_sise'. Did you mean '--image_size'? See --help
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", _HelpFormatter)
        kwargs.setdefault("epilog", EXIT_STATUS)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        if " " not in self.prog:  # a program, not one of its commands
            text = "show the versions of keras_effnet and of the packages it uses, and exit"
            self.add_argument("--version", action=_Version, nargs=0, help=text)

    def add_group(self, title: str, example: str) -> argparse._ArgumentGroup:
        """A group of arguments whose help starts with a command line that uses them."""
        lines = textwrap.wrap(
            example,
            _COLUMNS - 4,  # the indentation, and " \\" at the end
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        return self.add_argument_group(title, " \\\n".join(lines))

    def format_help(self):
        """As argparse's; the usage has the arguments that are required, not all flags."""
        given, self.usage = self.usage, self.usage or self._required_usage()
        try:
            return super().format_help()
        finally:
            self.usage = given

    def _required_usage(self):
        words = [self.prog]
        optional = False
        for action in self._actions:
            name = action.metavar or action.dest.upper()
            if isinstance(action, argparse._SubParsersAction):
                words.append("COMMAND ...")
            elif not action.option_strings:
                words.append(f"[{name}]" if action.nargs in ("?", "*") else name)
                words += ["..."] * (action.nargs in ("+", "*"))
            elif action.required:
                words.append(f"{action.option_strings[-1]}={name}")
            else:
                optional |= action.dest not in ("help", "version")
        for group in self._mutually_exclusive_groups:
            if group.required:
                flags = [
                    f"{a.option_strings[-1]}={a.metavar or a.dest.upper()}"
                    for a in group._group_actions
                ]
                words.append(f"({' | '.join(flags)})".replace(" ", "\N{NO-BREAK SPACE}"))
        text = " ".join(words + ["[--flag=value\N{NO-BREAK SPACE}...]"] * optional)
        lines = textwrap.wrap(text, 72, subsequent_indent=" " * 11, break_on_hyphens=False)
        return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ").replace("%", "%%")

    def error(self, message):
        """Raises ``ValueError``: one line, and where the help is."""
        raise ValueError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, after :func:`normalize_flags`; subcommands come through here, too."""
        args = sys.argv[1:] if args is None else args
        if not any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            args = normalize_flags(args, self._option_string_actions)
        return super().parse_known_args(args, namespace)


def normalize_flags(argv: Sequence[str], known: Iterable[str]) -> list[str]:
    """`argv` with every ``--flag`` spelled as in `known`, where ``-`` and ``_`` are the same.

    ``~/`` at the start of a value is the home folder: shells replace it only in words that start
    with it. Words after ``--`` stay as they are. Raises ``ValueError`` for an unknown flag.

    >>> normalize_flags(["--image-size=64", "--x", "a-b"], ["--image_size", "--x", "-x"])
    ['--image_size=64', '--x', 'a-b']
    """
    spelling = {"--" + _folded(flag[2:]): flag for flag in known if flag.startswith("--")}
    argv, rest = list(argv), []
    if "--" in argv:
        end = argv.index("--")
        argv, rest = argv[:end], argv[end:]
    normalized = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            folded = "--" + _folded(flag[2:])
            if folded not in spelling:
                raise ValueError(
                    f"Unknown flag {flag!r}.{did_you_mean(folded, spelling)} See --help"
                )
            if value.startswith("~/"):
                value = os.path.expanduser(value)
            word = spelling[folded] + equals + value
        normalized.append(word)
    return normalized + rest


def _folded(name):
    return name.replace("-", "_")
