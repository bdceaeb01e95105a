import re
import time

from tflite.cli.progress import SECONDS, progress_lines


def test_a_stage_is_repeated_with_its_time_while_it_runs():
    lines = []
    with progress_lines(lines.append, seconds=0.05) as log:
        log("Loading m.keras")
        log("  2 of 3")
        time.sleep(0.3)
        log("Converting")
    assert lines[:2] == ["Loading m.keras", "  2 of 3"]
    assert len(lines) >= 4
    assert all(re.fullmatch(r"  \.\.\. 0 s: Loading m\.keras", line) for line in lines[2:-1])
    assert lines[-1] == "Converting"
    time.sleep(0.15)
    assert lines[-1] == "Converting"


def test_lines_in_quick_succession_are_printed_once():
    lines = []
    with progress_lines(lines.append, seconds=30) as log:
        for i in range(5):
            log(f"stage {i}")
    assert len(lines) == 5


def test_progress_can_be_turned_off():
    lines = []
    with progress_lines(lines.append, seconds=None) as log:
        log("stage")
        time.sleep(0.1)
    assert lines == ["stage"]
    assert SECONDS == 10


def test_an_error_ends_the_progress(capsys):
    def closed(line):
        if line.startswith("  ..."):
            raise BrokenPipeError

    with progress_lines(closed, seconds=0.02) as log:
        log("stage")
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
