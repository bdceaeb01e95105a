"""Text report of the findings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tpu_train.diagnostics.environment import BUILDS, Environment
from tpu_train.diagnostics.finding import NOTE, PROBLEM, Finding, counted


def format_report(environment: Environment, findings: Sequence[Finding]) -> str:
    """The findings as text of at most 96 columns; fixes stay on one line, so they can be copied."""
    versions = [f"Python {'.'.join(map(str, environment.python))}"]
    for name in (*BUILDS, "keras"):
        if name in environment.packages:
            versions.append(f"{name} {environment.packages[name].version}")
    lines = [f"{', '.join(versions)} on {environment.system} {environment.machine}", ""]
    for f in findings:
        level = "PROBLEM" if f.level == PROBLEM else f.level
        lines += _wrapped(f"  {level:<9}{f.check:<14}", f.message)
        if f.why:
            lines += _wrapped(f"{'why':>23}  ", f.why)
        for i, line in enumerate(f.fix.splitlines()):
            lines.append(f"{'fix' if i == 0 else '':>23}  {line}")
    problems, notes = (sum(f.level == level for f in findings) for level in (PROBLEM, NOTE))
    and_notes = f", {counted(notes, 'note')}" if notes else ""
    lines.append("")
    if problems:
        lines.append(f"{counted(problems, 'problem')}{and_notes}. Fix these and rerun.")
    else:
        lines.append(f"No problem found{and_notes}.")
    return "\n".join(lines)


def _wrapped(start, text):
    return textwrap.wrap(text, 96, initial_indent=start, subsequent_indent=" " * len(start))
