"""What a run tells while it goes: a bar a phase on a terminal, plain lines elsewhere, and files."""

import json
import os
import sys
import time

import tensorflow as tf
from tqdm import tqdm

LINE_SECONDS = 10  # between plain lines


class Progress:
    """Writes ``metrics.jsonl`` and TensorBoard scalars to `workdir`, shows a run on `stream`.

    A run that goes on after `first_step` steps keeps the records up to there.
    """

    def __init__(self, workdir, stream=None, *, first_step=0):
        self.stream = sys.stderr if stream is None else stream
        self.path = os.path.join(workdir, "metrics.jsonl")
        self.file = _opened(self.path, first_step)
        self.board = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self.bar = None
        self.said = 0.0

    def close(self):
        """Closes the files; the bar stays as it is."""
        if self.bar:
            self.bar.close()
        self.file.close()
        self.board.close()

    def back(self, step):
        """The run goes back to `step`: what was recorded after it is taken out."""
        self.file.close()
        self.file = _opened(self.path, step)
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def say(self, line):
        """One line for people."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def begin(self, phase, phases, *, first_step):
        """A phase starts, or goes on at `first_step`."""
        title = f"phase {phase.number}/{phases}, {phase.image_size} px"
        total = (phase.end_step - first_step) * phase.batch_size
        if self.stream.isatty():
            self.bar = tqdm(
                total=total, desc=title, unit="img", unit_scale=True, file=self.stream, leave=True
            )
        else:
            self.say(f"{title}: steps {first_step} to {phase.end_step - 1}, tracing")
            self.said = time.monotonic()
        self.title, self.total, self.done, self.began = title, total, 0, time.monotonic()

    def step(self, record, images):
        """Some steps are done: `record` has their means, `images` how many images they took."""
        self._write(record)
        self.done += images
        figures = f"loss {record['loss']:.3f}, accuracy {record['accuracy']:.1%}"
        if self.bar is not None:
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(images)
        elif time.monotonic() - self.said > LINE_SECONDS or self.done == self.total:
            self.said = time.monotonic()
            left = (self.said - self.began) * (self.total - self.done) / self.done
            self.say(
                f"{self.title}: {self.done}/{self.total} images, {figures}, "
                f"{record['images_per_second']:.0f} images/s, {left:.0f} s left in this phase"
            )

    def evaluated(self, record):
        """An evaluation is done: `record` has its figures."""
        self._write(record)
        if self.done < self.total:
            self.say(
                f"step {record['step']}: held-out accuracy {record['evaluation_accuracy']:.2%} "
                f"(raw weights {record['evaluation_accuracy_raw']:.2%})"
            )

    def end(self, record):
        """A phase is over."""
        self._write(record)
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _write(self, record):
        self.file.write(json.dumps(record) + "\n")
        with self.board.as_default(step=record["step"]):
            for name, value in record.items():
                if name not in ("step", "phase"):
                    tf.summary.scalar(name, value)


def _opened(path, last_step):
    """A metrics file with its lines up to a step, to add to; none for step 0."""
    with open(path + ".new", "w") as file:
        file.writelines(_records(path, last_step) if last_step else [])
    os.replace(path + ".new", path)
    return open(path, "a", buffering=1)  # until close()


def _records(path, last_step):
    """The lines of a metrics file up to a step; a last line that a kill cut is left out."""
    kept = []
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                if line.endswith("}\n") and json.loads(line)["step"] <= last_step:
                    kept.append(line)
    return kept
