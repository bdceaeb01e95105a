"""Metrics of a run: ``metrics.jsonl``, TensorBoard scalars, a progress bar or log lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import tensorflow as tf
from tqdm import tqdm

from keras_effnet.atomic_write import write_files
from tpu_train.callbacks.records import Callback
from tpu_train.recipes.phases import Phase
from tpu_train.training.event_files import truncate_events

_REPEATED = (("image_size", "evaluation"), ("image_size", "phase_end"))
LINE_SECONDS = 10  # least time between two progress lines
MOST_WAITING = 0.2  # of the time of steps, above which the wait for images is reported


class MetricsWriter:
    """Writes metrics to files in `workdir` and progress to `stream` (standard error).

    Args:
        workdir: a local folder.
        stream: where progress is shown: a bar per phase on a terminal, else lines.
        first_step: records up to this step are kept, those of later steps removed.
        callback: is called with the same records.
    """

    def __init__(
        self,
        workdir: str,
        stream: TextIO | None = None,
        *,
        first_step: int = 0,
        callback: Callback | None = None,
    ):
        self.stream = sys.stderr if stream is None else stream
        self.path = os.path.join(workdir, "metrics.jsonl")
        self.events = os.path.join(workdir, "tensorboard")
        self.callback = callback or Callback()
        self.step = first_step  # of the latest record
        self._open()
        self.bar = None
        self.last_line = 0.0  # time of the last progress line
        # of the current phase
        self.title = ""
        self.total_images = self.done_images = 0
        self.phase_start = 0.0
        self.step_seconds = self.waiting_seconds = 0.0  # after the first host call

    def close(self) -> None:
        """Closes the files; the bar stays on the terminal."""
        self._close_bar()
        self.file.close()
        self.board.close()

    def roll_back(self, step: int) -> None:
        """Removes the records after `step`, to which the run has rolled back."""
        self.close()
        self.step = step
        self._open()
        self.callback("rollback", step, {})

    def log(self, line: str) -> None:
        """Shows one line of text."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def start_phase(self, phase: Phase, phases: int, *, first_step: int) -> None:
        """Starts the progress of a phase, or of the rest of it from `first_step`."""
        self.title = f"phase {phase.number}/{phases}, {phase.image_size} px"
        self.total_images = (phase.end_step - first_step) * phase.images
        self.done_images = 0
        if self.stream.isatty():
            self.bar = tqdm(
                total=self.total_images,
                desc=self.title,
                unit="img",
                unit_scale=True,
                file=self.stream,
                leave=True,
            )
        else:
            self.log(f"{self.title}: steps {first_step}-{phase.end_step - 1}, tracing")
            self.last_line = time.monotonic()
        self.phase_start = time.monotonic()
        self.step_seconds = self.waiting_seconds = 0.0
        values = {"phase": phase.number, "phases": phases, "image_size": phase.image_size}
        values.update(batch_size=phase.batch_size, end_step=phase.end_step)
        self.callback("phase_start", first_step, values)

    def log_steps(self, record: dict, images: int) -> None:
        """Records the mean metrics of a host call's steps, which trained on `images` images."""
        self._write("steps", record)
        if self.done_images:
            self._report_waiting(images / record["images_per_second"], record["input_wait"])
        self.done_images += images
        metrics = f"loss {record['loss']:.3f}, accuracy {record['accuracy']:.1%}"
        if self.bar is not None:
            self.bar.set_postfix_str(metrics, refresh=False)
            self.bar.update(images)
            return
        now = time.monotonic()
        if now - self.last_line > LINE_SECONDS or self.done_images == self.total_images:
            self.last_line = now
            images_left = self.total_images - self.done_images
            seconds_left = (now - self.phase_start) * images_left / self.done_images
            self.log(
                f"{self.title}: {self.done_images}/{self.total_images} images, {metrics}, "
                f"{record['images_per_second']:.0f} images/s, {seconds_left:.0f} s left in phase"
            )

    def _report_waiting(self, seconds, input_wait):
        """Reports, once in a phase, that steps have waited for images for long."""
        reported = self.step_seconds >= LINE_SECONDS
        self.step_seconds += seconds
        self.waiting_seconds += seconds * input_wait
        waiting = self.waiting_seconds / self.step_seconds
        if not reported and self.step_seconds >= LINE_SECONDS and waiting > MOST_WAITING:
            self.log(
                f"{self.title}: steps wait for images {waiting:.0%} of the time: use more "
                "processor cores, fewer operations (--augment, --randaugment_layers), or smaller "
                "image files (docs/troubleshooting.md)"
            )

    def log_evaluation(self, record: dict) -> None:
        """Records an evaluation; shown unless the phase is over, whose summary includes it."""
        self._write("evaluation", record)
        if self.done_images < self.total_images:
            metrics = {
                key.removeprefix("evaluation_").removeprefix("accuracy_"): value
                for key, value in record.items()
            }
            self.log(f"step {record['step']}: {describe_evaluation(metrics)}")

    def end_phase(self, record: dict) -> None:
        """Records the end of a phase."""
        self._write("phase_end", record)
        self._close_bar()

    def _close_bar(self):
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _open(self):
        self.file = _open_truncated(self.path, self.step)
        truncate_events(self.events, self.step)
        self.board = tf.summary.create_file_writer(self.events)

    def _write(self, event, record):
        self.step = record["step"]
        self.file.write(json.dumps(record) + "\n")
        with self.board.as_default(step=record["step"]):
            for name, value in record.items():
                # The image size is that of the steps: one value for each step.
                if name not in ("step", "phase") and (name, event) not in _REPEATED:
                    tf.summary.scalar(name, value)
        self.callback(event, self.step, record)


def describe_evaluation(metrics: Mapping[str, float]) -> str:
    """One line about an evaluation, from the values of ``make_evaluation``'s function.

    >>> describe_evaluation({"ema": 0.912, "loss_ema": 0.3, "top5_ema": 0.99, "non_ema": 0.9})
    'evaluation accuracy 91.20% (top-5 99.00%, loss 0.300) with EMA weights, 90.00% with non-EMA \
weights'
    """
    shown = []
    for key, weights in (("ema", "EMA"), ("non_ema", "non-EMA")):
        details = [
            f"{name} {form.format(metrics[f'{metric}_{key}'])}"
            for metric, name, form in (("top5", "top-5", "{:.2%}"), ("loss", "loss", "{:.3f}"))
            if f"{metric}_{key}" in metrics
        ]
        details = f" ({', '.join(details)})" if details else ""
        shown.append(f"{metrics[key]:.2%}{details} with {weights} weights")
    return f"evaluation accuracy {', '.join(shown)}"


def _open_truncated(path, last_step):
    """Opens a metrics file for appending, after removing the records of later steps."""
    records = _records(path, last_step) if last_step else []
    write_files({path: "".join(records)})
    return open(path, "a", buffering=1)  # closed by close()


def _records(path, last_step):
    """The lines up to a step; an incomplete last line, left by a kill, is dropped."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [
            line for line in file if line.endswith("}\n") and json.loads(line)["step"] <= last_step
        ]
