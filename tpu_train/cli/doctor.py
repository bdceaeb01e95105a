"""``effnet-train doctor``: what is wrong with this environment, and the line that puts it right.

The exit status is 0 without a problem, 1 with one, 2 for bad flags.
"""

import dataclasses
import json
import sys

from absl import flags

from tpu_train.diagnostics import checks
from tpu_train.diagnostics.environment import gather


def main(argv=None):
    """Looks, prints, changes nothing; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_string("workdir", "", "where a run would be written: may it, is there room", **own)
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker", **own
    )
    flags.DEFINE_boolean("json", False, "for machines", **own)
    flags.DEFINE_boolean("help", False, "print this", short_name="h", **own)
    try:
        rest = values(["effnet-train doctor", *argv])[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no flag: write --flag=value")
        kind = values.device.partition(":")[0]
        if kind not in ("auto", "tpu", "gpu", "cpu", "multi-worker"):
            raise flags.Error(f"--device={values.device}: auto, tpu, gpu, cpu or multi-worker")
    except flags.Error as error:
        print(f"effnet-train doctor: {error}", file=sys.stderr)
        return 2
    if values.help:
        print(__doc__)
        print(values.get_help())
        return 0
    environment = gather(values.workdir, values.device)
    findings = checks.examine(environment)
    if values.json:
        print(json.dumps({"findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        print(checks.show(environment, findings))
    return int(any(f.level == checks.PROBLEM for f in findings))


if __name__ == "__main__":
    sys.exit(main())
