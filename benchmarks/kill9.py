"""Compares the bits of a training that is killed (kill -9) many times with an uninterrupted one.

Trains a narrow EfficientNetV2-B0 with every feature on (RandAugment, mixup, CutMix, dropout, drop
path, gradient clipping, gradient accumulation, EMA) on random images, in five phases with five
image sizes and a checkpoint after every host call. Kills it at random moments (at start-up, during
steps, while saving, between phases) and restarts it with the same command. When it has finished,
compares every variable of its last checkpoint (weights, EMA weights, optimizer slots) and of the
exported model with those of an uninterrupted run. Prints the tables of docs/results/resume.md; the
exit status is 1 if a bit differs:

    python benchmarks/kill9.py
    python benchmarks/kill9.py --kills=4 --devices=cpu:2
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = {
    "recipe": "digits",
    "model": "efficientnetv2-b0",
    "width": 0.25,
    "depth": 0.2,
    "epochs": 20,
    "batch_size": 16,
    "phases": 5,
    "image_size_first": 32,
    "image_size_last": 48,
    "image_size_eval": 48,
    "randaugment_magnitude_first": 5,
    "randaugment_magnitude_last": 10,
    "randaugment_layers": 2,
    "random_crop_min_area": 0.25,
    "flip": True,
    "mixup_first": 0.2,
    "mixup_last": 0.5,
    "cutmix_first": 0.5,
    "cutmix_last": 1,
    "dropout_first": 0.1,
    "dropout_last": 0.3,
    "drop_path_first": 0.1,
    "drop_path_last": 0.2,
    "gradient_accumulation_first": 1,
    "gradient_accumulation_last": 2,
    "optimizer": "rmsprop",
    "learning_rate": 0.1,
    "clip_norm": 0.5,
    "steps_per_loop": 2,
    "save_minutes": 0,
    "keep_checkpoints": True,
}
MOMENTS = ("start", "steps", "steps", "save", "save", "phase")  # each round is shuffled
_MOST_SECONDS = 3600  # for a process to reach its moment, on a busy machine


def write_data(path, images=96, seed=0):
    """Writes random images of four classes, distinguished by colour, as .npz for ``--data``."""
    import numpy as np

    labels = np.arange(images) % 4
    pixels = np.random.default_rng(seed).integers(0, 80, (images, 40, 48, 3))
    pixels[..., 0] += (labels * 55)[:, None, None]
    np.savez(path, images=pixels.astype(np.uint8), labels=labels)


class Training:
    """A training process and the lines of its stderr."""

    def __init__(self, flags, workdir, *, environment=None):
        self.workdir = pathlib.Path(workdir)
        self.began = time.time()
        words = [f"--workdir={workdir}", *(f"--{name}={value}" for name, value in flags.items())]
        self.process = self.start(words, environment or {})
        self.said = []
        self._lines = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def start(self, words, environment):
        """The process, as subprocess.Popen."""
        quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        return subprocess.Popen(
            [sys.executable, "-m", "tpu_train.cli.train", *words],
            cwd=ROOT,
            env={**os.environ, **quiet, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def until(self, text):
        """Waits for a line that contains `text`; False if the process ends before."""
        end = time.monotonic() + _MOST_SECONDS
        while True:
            line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            if line is None:
                self._lines.put(None)  # for the next call
                return False
            self.said.append(line)
            if text in line:
                return True

    def until_saving(self, count):
        """Waits for the `count`-th checkpoint from now; False if the process ends before."""
        before = set(checkpoint_steps(self.workdir))
        while self.process.poll() is None:
            written = len(set(checkpoint_steps(self.workdir)) - before)
            if written >= count or (written == count - 1 and self.partial()):
                return True
            time.sleep(0.0002)
        return False

    def partial(self):
        """The checkpoint that this process is writing, or ""; ignores those of killed processes."""
        with contextlib.suppress(FileNotFoundError):
            folder = self.workdir / "checkpoints"
            for name in os.listdir(folder):
                if name.startswith(".partial-") and (folder / name).stat().st_mtime > self.began:
                    return name
        return ""

    def kill(self):
        """Sends SIGKILL; False if the process had already ended."""
        alive = self.process.poll() is None
        self.process.kill()
        self.wait()
        return alive

    def wait(self):
        """Waits for the end; returns the exit status."""
        status = self.process.wait(_MOST_SECONDS)
        while self.until("\0"):
            pass
        self._thread.join()
        self.process.stderr.close()
        return status


def kill_once(flags, workdir, moment, dice, *, environment=None):
    """Starts the run in `workdir` and kills it at a random time within the given `moment`.

    Returns a row of the table, or None if the run finished before.
    """
    training = Training(flags, workdir, environment=environment)
    if moment == "start":
        time.sleep(dice.uniform(0.5, 8))
    elif moment == "save":
        training.until_saving(dice.randint(1, 4))
        time.sleep(dice.uniform(0, 0.03))
    else:
        training.until(", tracing")  # a phase begins
        if moment == "phase":
            training.until("evaluation accuracy")  # it is over
            time.sleep(dice.uniform(0, 6))  # saving, tracing the next
        else:
            training.until_saving(2)  # after the first host calls
            time.sleep(dice.uniform(0, 2))
    if not training.kill():
        if training.process.returncode:
            raise SystemExit("\n".join(training.said[-20:]))
        return None
    resumed = [line for line in training.said if line.startswith("resuming after step")]
    phases = [line.split(",")[0] for line in training.said if line.endswith(", tracing")]
    return {
        "moment": moment,
        "from step": int(resumed[0].split()[3].rstrip(",")) if resumed else 0,
        "phase": phases[-1].removeprefix("phase ") if phases else "-",
        "incomplete": training.partial(),
        "newest": max(checkpoint_steps(workdir), default=0),
    }


def checkpoint_steps(workdir):
    """The steps of the checkpoints in a work directory, valid or corrupt."""
    return [int(p.name.split("-")[1]) for p in pathlib.Path(workdir).glob("checkpoints/step-*")]


def finish(flags, workdir, *, environment=None):
    """Starts the run in `workdir` and waits until it finishes."""
    training = Training(flags, workdir, environment=environment)
    if training.wait():
        raise SystemExit("\n".join(training.said[-20:]))


def digests(workdir):
    """{variable: SHA-256} of the newest checkpoint's variables and of the exported model's."""
    import keras

    from tpu_train.checkpointing import storage

    newest = storage.latest(str(pathlib.Path(workdir) / "checkpoints"))
    digest = {
        f"{i} {name}": _sha256(value)
        for i, (name, value) in enumerate(zip(newest.names, newest.values))
    }
    model = keras.saving.load_model(pathlib.Path(workdir) / "model.keras", compile=False)
    digest.update({f"model {i}": _sha256(w) for i, w in enumerate(model.get_weights())})
    return {"step": str(newest.step), **digest}


def _sha256(value):
    return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()


def combined_digest(digest):
    """One SHA-256 of all entries of :func:`digests`."""
    return hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest()


def main():
    """Compares the runs on every device; returns 0 if all bits are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", default="cpu,cpu:2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_data(folder / "data.npz")
        for device in options.devices.split(","):
            flags = {**FLAGS, "data": folder / "data.npz", "device": device}
            equal &= compare(flags, folder / device.replace(":", "-"), options)
    return 0 if equal else 1


def compare(flags, folder, options):
    """Prints one device's table of kills and its result; returns whether all bits are equal."""
    began = time.monotonic()
    dice = random.Random(f"{options.seed} {flags['device']}")
    finish(flags, folder / "uninterrupted")
    want = digests(folder / "uninterrupted")
    print(
        f"\n--device={flags['device']}: uninterrupted, {len(want) - 1} variables at step", end=" "
    )
    print(f"{want['step']}, SHA-256 of all {combined_digest(want)}\n", flush=True)
    print("| kill | run | moment | resumed from step | in phase | newest complete | incomplete |")
    print("|---|---|---|---|---|---|---|")
    finished, kills, moments = [], 0, []
    while kills < options.kills or (folder / f"run{len(finished)}").exists():
        workdir = folder / f"run{len(finished)}"
        if kills == options.kills:
            finish(flags, workdir)
            row = None
        else:
            moments = moments or dice.sample(MOMENTS, len(MOMENTS))
            row = kill_once(flags, workdir, moments.pop(), dice)
        if row is None:
            finished.append(digests(workdir))
            continue
        kills += 1
        print(
            f"| {kills} | {len(finished) + 1} | {row['moment']} | {row['from step']} "
            f"| {row['phase']} | {row['newest']} | {row['incomplete'] or '-'} |",
            flush=True,
        )
    differ = [sorted(k for k in want if got.get(k) != want[k]) for got in finished]
    print(f"\n{kills} kills, {len(finished)} runs finished, {time.monotonic() - began:.0f} s:")
    for got, names in zip(finished, differ):
        print(
            f"SHA-256 of all {combined_digest(got)}, {len(names)} of {len(want)} differ", *names[:5]
        )
    return not any(differ)


if __name__ == "__main__":
    sys.exit(main())
