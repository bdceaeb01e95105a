"""``effnet-train doctor``: diagnoses the installation and prints the commands that fix it.

Changes nothing. The exit status is 0 without a problem, 1 with one, 2 for bad flags.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from absl import flags

from keras_effnet.suggestions import unknown_name
from tpu_train.cli import command
from tpu_train.device_names import DEVICES
from tpu_train.diagnostics.checks import examine
from tpu_train.diagnostics.environment import probe_environment
from tpu_train.diagnostics.finding import PROBLEM
from tpu_train.diagnostics.report import format_report

INTRODUCTION = """Diagnoses the installation and prints the commands that fix it. Changes nothing.

  effnet-train doctor --device=tpu --workdir=run1"""

GROUPS = {
    "what to check": ("effnet-train doctor --device=gpu:2", ("device", "workdir")),
    "output": ("effnet-train doctor --json", ("json",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Probes the environment and prints the findings; returns the exit status."""
    return command.run("effnet-train doctor", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    if values.device.partition(":")[0] not in DEVICES:
        raise ValueError(unknown_name("device", values.device, DEVICES))
    environment = probe_environment(values.workdir, values.device)
    findings = examine(environment)
    if values.json:
        print(json.dumps({"findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        print(format_report(environment, findings))
    return int(any(f.level == PROBLEM for f in findings))


def define():
    """The flags of the command."""
    values = flags.FlagValues()
    here = {"flag_values": values}
    flags.DEFINE_string(
        "workdir", "", "work directory to check for write access and free space", **here
    )
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker", **here
    )
    flags.DEFINE_boolean("json", False, "print JSON", **here)
    return values


if __name__ == "__main__":
    sys.exit(main())
