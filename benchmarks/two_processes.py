"""Training throughput of two processes over loopback, beside one process with two replicas.

Both train EfficientNetV2-B0 with the same global batch on the same two cores: one process with two
virtual CPU devices (MirroredStrategy), and two processes with one device each, which exchange
gradients over loopback (MultiWorkerMirroredStrategy). In turns; the median of the steps' images per
second behind the first two records of each run:

    taskset -c 0,1 python -m benchmarks.two_processes
"""

import argparse
import json
import pathlib
import statistics
import tempfile

import numpy as np

from benchmarks.kill9 import Training
from benchmarks.local_workers import environments

WAYS = ("one process, two replicas", "two processes")


def main():
    """Prints images per second of every run, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch_norm_group_size", type=int, default=0, help="0: all images")
    options = parser.parse_args()
    speeds = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        flags = make_flags(options, pathlib.Path(folder))
        for turn in range(options.rounds):
            for way in WAYS:
                workdir = pathlib.Path(folder) / f"{way}-{turn}"
                speeds[way] += run(way, flags, workdir)
                print(f"{way}: {statistics.median(speeds[way]):.1f} images/s", flush=True)
    one, two = (statistics.median(speeds[way]) for way in WAYS)
    print(f"two processes / one process: {two / one:.2f}")


def make_flags(options, folder):
    """Flags of a training without evaluations; writes its random images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8 * options.batch_size, 64, 64, 3)).astype(np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(len(images)) % 10)
    return {
        "recipe": "digits",
        "model": "efficientnetv2-b0",
        "width": 1,
        "depth": 1,
        "data": folder / "data.npz",
        "holdout": 0,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "batch_norm_group_size": options.batch_norm_group_size,
        "epochs": options.steps / 8,
        "phases": 1,
        "augment": "none",
        "steps_per_loop": 4,
        "pages": False,
    }


def run(way, flags, workdir):
    """Images per second of each record of a training, but the first two."""
    if way == WAYS[0]:
        trainings = [Training({**flags, "device": "cpu:2"}, workdir)]
    else:
        flags = {**flags, "device": "multi-worker"}
        trainings = [Training(flags, workdir, environment=e) for e in environments()]
    statuses = [training.wait() for training in trainings]
    if any(statuses):
        raise SystemExit("\n".join(line for t in trainings for line in t.said[-9:]))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [r["images_per_second"] for r in records if "images_per_second" in r][2:]


if __name__ == "__main__":
    main()
