"""The ratios of the main benchmarks, measured again and beside the last recorded ones.

Every ratio is that of theirs to ours in one run, contenders in turns: above 1, ours takes less
time. `make bench` measures all of them:

    python benchmarks/ratios.py
    python benchmarks/ratios.py --only import inference    # rows whose name contains one of these
    python benchmarks/ratios.py --record                   # also writes docs/results/ratios.json

Other programs change the ratios less than the times, but they change them: record on an idle
machine only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import inference
import start_up
import step_throughput

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDED = ROOT / "docs" / "results" / "ratios.json"


@dataclass(frozen=True)
class Benchmark:
    """One row: what is compared with what, and where it is described."""

    name: str
    against: str
    page: str  # in docs/results
    command: str  # that measures it in full
    measure: Callable[[Benchmark], float]  # the ratio

    @property
    def key(self) -> str:
        """Name of the row in the file of recorded ratios."""
        return f"{self.name} / {self.against}"


def _train_step(row):
    model, turns = row.name.split(": ")[1], ["--contenders", "ours", row.against, "--rounds=5"]
    options = step_throughput.parsed([*turns, "--models", model])
    times = step_throughput.compare(model, options)
    pairs = zip(times["ours"], times[row.against])
    return statistics.median(theirs[0] / ours[0] for ours, theirs in pairs)


def _inference(row):
    network = inference.NETWORKS[row.name.split(": ")[1]]
    turns = ["--contenders", inference.FIRST, row.against, "--rounds=9"]
    options = inference.parsed([*turns, "--folder", str(ROOT / "build" / "inference")])
    inference.write_files(network, options.folder)
    times = inference.compare(network, 1, [1], options)[1]
    return inference.ratio(times, row.against)


def _import(row):
    times = start_up.time_imports(3)
    return times["import keras"][1] / times["import keras_effnet, keras"][1]


_STEP = "python benchmarks/step_throughput.py"
_FILES = "python benchmarks/inference.py --models efficientnet-b0"
BENCHMARKS = (
    *(
        Benchmark(f"train step: {model}", against, "step-throughput.md", _STEP, _train_step)
        for model in step_throughput.KERAS
        for against in ("keras, oneDNN", "timm, channels last")
    ),
    *(
        Benchmark("inference: efficientnet-b0", against, "inference.md", _FILES, _inference)
        for against in ("tflite float32", "ONNX Runtime", "ONNX Runtime int8", "keras predict")
    ),
    Benchmark(
        "import keras_effnet, keras",
        "import keras",
        "start-up.md",
        "python benchmarks/start_up.py --rounds=0",
        _import,
    ),
)


def line(row: Benchmark, ratio: float | None, recorded: dict | None) -> str:
    """A row of the printed table."""
    now = "failed" if ratio is None else f"{ratio:.2f}"
    before = "-" if recorded is None else f"{recorded['ratio']:.2f} ({recorded['date']})"
    return f"{row.name:<42}{row.against:<22}{now:>7}{before:>20}  {row.page:<20}{row.command}"


def read_recorded(path: pathlib.Path | None = None) -> dict[str, dict]:
    """{key: {"ratio", "date", "commit"}}; empty without a file."""
    path = path or RECORDED
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _commit():
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main(argv=None):
    """Measures the rows and prints them; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of rows")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    options = parser.parse_args(argv)
    rows = [row for row in BENCHMARKS if any(part in row.name for part in options.only)]
    if not rows:
        names = ", ".join(sorted({row.name for row in BENCHMARKS}))
        parser.error(f"--only={' '.join(options.only)} matches none of: {names}")
    recorded, failed = read_recorded(), 0
    print(f"{'ours':<42}{'theirs':<22}{'ratio':>7}{'recorded':>20}  {'page':<20}command")
    for row in rows:
        ratio = None
        try:
            ratio = row.measure(row)
        except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{row.key}: {error}", file=sys.stderr)
            failed += 1
        print(line(row, ratio, recorded.get(row.key)), flush=True)
        if options.record and ratio is not None:
            today = datetime.date.today().isoformat()
            recorded[row.key] = {"ratio": round(ratio, 3), "date": today, "commit": _commit()}
            RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
