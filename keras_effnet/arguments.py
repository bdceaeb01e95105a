"""The argument parser of all commands: underscores or hyphens, and the nearest match for a typo.

Help prints every flag with underscores (``--image_size``); ``--image-size`` means the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from keras_effnet.suggestions import did_you_mean


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
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

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

    Words after ``--`` stay as they are. Raises ``ValueError`` for a flag that is not known.

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
            word = spelling[folded] + equals + value
        normalized.append(word)
    return normalized + rest


def _folded(name):
    return name.replace("-", "_")
