"""Error text for an unknown name: what was given, the nearest matches, what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> str:
    """The message for a `name` that is not among `choices`.

    >>> unknown_name("weights", "imagenett", ["imagenet"])
    "Unknown weights 'imagenett'. Did you mean 'imagenet'? Known: imagenet"
    """
    choices = list(choices)
    return f"Unknown {kind} {name!r}.{did_you_mean(name, choices)} Known: {', '.join(choices)}"


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Hint with the nearest choices, three at most; an empty string if none is near.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    " Did you mean 'epochs'?"
    """
    spelling = {str(choice).lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), list(spelling), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(spelling[n]) for n in near)}?" if near else ""
