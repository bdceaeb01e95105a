"""``effnet-train doctor``: diagnoses the installation and prints the commands that fix it.

Changes nothing. The exit status is 0 without a problem, 1 with one, 2 for bad flags.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from absl import flags

from keras_effnet.arguments import normalize_flags
from keras_effnet.suggestions import unknown_name
from tpu_train.device_names import DEVICES
from tpu_train.diagnostics.checks import examine
from tpu_train.diagnostics.environment import probe_environment
from tpu_train.diagnostics.finding import PROBLEM
from tpu_train.diagnostics.report import format_report


def main(argv: Sequence[str] | None = None) -> int:
    """Probes the environment and prints the findings; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        values = _parse(argv)
    except (flags.Error, ValueError) as error:
        print(f"effnet-train doctor: {error}", file=sys.stderr)
        return 2
    if values.help:
        print(__doc__)
        print(values.get_help())
        return 0
    environment = probe_environment(values.workdir, values.device)
    findings = examine(environment)
    if values.json:
        print(json.dumps({"findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        print(format_report(environment, findings))
    return int(any(f.level == PROBLEM for f in findings))


def _parse(argv):
    values = flags.FlagValues()
    here = {"flag_values": values}
    flags.DEFINE_string(
        "workdir", "", "work directory to check for write access and free space", **here
    )
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker", **here
    )
    flags.DEFINE_boolean("json", False, "print JSON", **here)
    flags.DEFINE_boolean("help", False, "print this", short_name="h", **here)
    known = [*(f"--{f}" for f in values), *(f"--no{f}" for f in values if values[f].boolean)]
    rest = values(["effnet-train doctor", *normalize_flags(argv, known)])[1:]
    if rest:
        raise flags.Error(f"{rest[0]!r} is not a flag; use --flag=value")
    if values.device.partition(":")[0] not in DEVICES:
        raise ValueError(unknown_name("device", values.device, DEVICES))
    return values


if __name__ == "__main__":
    sys.exit(main())
