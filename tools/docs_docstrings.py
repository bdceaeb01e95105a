"""Docstrings for the documentation site: examples become code blocks, Sphinx roles become code.

mkdocstrings loads this file (`extensions` in mkdocs.yml). It reads sources and imports nothing.
"""

from __future__ import annotations

import re

import griffe


class ExamplesAndRoles(griffe.Extension):
    """Rewrites every docstring before it is rendered as Markdown."""

    def on_instance(self, *, obj, **_):
        """Called by griffe for every module, class and function."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    r"""A docstring with ``>>>`` examples in code fences, and without Sphinx roles.

    >>> print(to_markdown("Adds.\n\n>>> 1 + 1\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    text = re.sub(r":(?:class|func|mod|meth|data):`~?([^`]+)`", r"`\1`", docstring)
    lines, inside = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(">>>") and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
