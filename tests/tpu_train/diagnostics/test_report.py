import dataclasses

from tests.tpu_train.diagnostics.environments import GOOD, TPU_LINE
from tpu_train.diagnostics.checks import examine
from tpu_train.diagnostics.report import format_report


def test_the_report_wraps_text_but_not_commands():
    environment = dataclasses.replace(GOOD, tpu_devices=("/dev/accel0",))
    lines = format_report(environment, examine(environment)).splitlines()
    assert lines[0] == "Python 3.11.0, tensorflow 2.21.0, keras 3.15.1 on Linux x86_64"
    assert lines[-1] == "1 problem. Fix these and rerun."
    assert [line.strip() for line in lines if "find-links" in line] == [TPU_LINE]
    assert all(len(line) <= 100 for line in lines if "find-links" not in line)
    assert format_report(GOOD, examine(GOOD)).endswith("No problem found.")
