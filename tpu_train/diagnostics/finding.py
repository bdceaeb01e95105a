"""The result of one check of an environment."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """The result of one check, with a fix where something is wrong."""

    level: str  # "ok", "note" (works, but may need attention) or "problem"
    check: str
    message: str
    why: str = ""
    fix: str = ""  # shell commands and shell comments, one per line


def counted(n: int, noun: str) -> str:
    """The number with its noun in singular or plural.

    >>> counted(1, "problem"), counted(2, "note")
    ('1 problem', '2 notes')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
