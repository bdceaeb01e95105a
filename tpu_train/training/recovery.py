"""Recovery from training failures: NaN losses, exhausted memory, lost workers, damaged images.

A NaN loss and exhausted accelerator memory both leave the variables partly updated. The run
therefore restores the latest checkpoint. After a NaN loss it skips the steps that caused it
(``--on_nan=skip``) or ends with advice (``--on_nan=stop``). After an out-of-memory error it
computes each batch in twice as many gradient-accumulation steps. An image file that cannot be
decoded is replaced by the next one with the same labels, from the first step on: no earlier step
read it, so the result does not depend on when it was noticed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tpu_train.checkpointing.workdir import BEST
from tpu_train.input_pipeline.batches import images_of_steps, unlabeled_of_steps
from tpu_train.input_pipeline.image_source import corrupt, error_line, substitutes
from tpu_train.recipes.phases import Phase, accumulations
from tpu_train.recipes.schema import Recipe
from tpu_train.training.distribution import worker_count
from tpu_train.training.evaluation_history import is_finite
from tpu_train.training.run_context import RunContext, TrainingHistory

ON_NAN = ("stop", "skip")
MAX_ROLLBACKS = 10  # with --on_nan=skip; a run that needs more has another problem
MAX_ROLLBACKS_TO_ONE_STEP = 3  # without a newer checkpoint between them
LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
)
STEP_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)  # of an image, mostly
_READ_AHEAD = 64  # steps


class TrainingError(RuntimeError):
    """The run cannot continue; the message says what to change."""


class LossNotFiniteError(RuntimeError):
    """The loss, the gradient or the weights became NaN or Inf in steps [first_step, end_step)."""

    def __init__(self, first_step: int, end_step: int, message: str):
        super().__init__(message)
        self.first_step, self.end_step = first_step, end_step


class DamagedImagesError(RuntimeError):
    """Images at these indices of the training source cannot be decoded."""

    def __init__(self, images: dict[int, str], files: int):
        super().__init__(f"{files} training images cannot be decoded")
        self.images = images  # {index: reason}
        self.files = files  # fewer than `images` if oversampling repeats them


RECOVERABLE = (LossNotFiniteError, DamagedImagesError, tf.errors.ResourceExhaustedError)


def recover(
    run: RunContext, phase: Phase, history: TrainingHistory, error: Exception
) -> tuple[RunContext, int, TrainingHistory]:
    """Restores the latest checkpoint after a ``RECOVERABLE`` error.

    Returns the run, which has another training source after damaged images, and the checkpoint's
    step and history. Raises :class:`TrainingError` if the run cannot recover, or must not
    (``--on_nan=stop``).
    """
    if isinstance(error, LossNotFiniteError):
        return run, *_skip_steps(run, history, error)
    if isinstance(error, DamagedImagesError):
        return _replace_images(run, history, error)
    return run, *_accumulate_more(run, phase, history, error)


def check_finite(run: RunContext, phase: Phase, first_step: int, end_step: int, sums) -> None:
    """Raises :class:`LossNotFiniteError` if steps [first_step, end_step) gave a NaN or Inf.

    `sums` are loss, correct predictions and gradient norm, summed over the steps. float16 tolerates
    an infinite gradient: its loss scale is then reduced and the update skipped.
    """
    loss, _, norm = sums / (end_step - first_step)
    gradient_may_overflow = run.state.loss_scale is not None
    if math.isfinite(loss) and (gradient_may_overflow or math.isfinite(norm)):
        return
    problem = f"The loss is {loss} and the gradient norm {norm} at step {end_step - 1}"
    raise LossNotFiniteError(first_step, end_step, nan_advice(run, phase, problem))


def check_exported(recipe: Recipe, exported: Mapping | None, best: Mapping | None) -> None:
    """Raises :class:`TrainingError` if the evaluation of the final weights gave NaN or Inf.

    `best` is the best evaluation of the run; None, as `exported`, without evaluation images.
    """
    if exported is None or is_finite(exported):
        return
    kept = ""
    if best is not None and is_finite(best):
        kept = f". {BEST} has the weights of step {best['step']}, the best evaluation"
    raise TrainingError(
        f"The evaluation after step {exported['step']}, the last one, gives NaN or Inf "
        f"(loss {exported['loss_ema']}), and training steps did not: no model.keras is written. "
        f"Train again with a lower --learning_rate (now {recipe.learning_rate}) or --clip_norm=1"
        f"{kept}"
    )


def in_accumulation_steps(run: RunContext, phase: Phase, history: TrainingHistory) -> Phase:
    """The phase, in at least as many gradient-accumulation steps as exhausted memory has required.

    In fewer if its batch, which may be smaller than that of an earlier phase, has no such divisor.
    """
    possible = accumulations(run.recipe, phase, run.strategy.num_replicas_in_sync)
    least = max(phase.accumulation, history.accumulation)
    accumulation = next((n for n in possible if n >= least), possible[-1])
    return dataclasses.replace(phase, accumulation=accumulation)


def nan_advice(run: RunContext, phase: Phase, problem: str) -> str:
    """The problem, where it occurred, and which flags to change."""
    skip = ", or give --on_nan=skip" if run.on_nan == "stop" else ""
    return (
        f"{problem} (phase {phase.number}, {phase.image_size} px): lower --learning_rate (now "
        f"{run.recipe.learning_rate}), set --clip_norm=1, lengthen --warmup_epochs{skip}. The last "
        "checkpoint is kept"
    )


@contextlib.contextmanager
def reporting_lost_workers(strategy: tf.distribute.Strategy, folder: str) -> Iterator[None]:
    """Raises :class:`TrainingError` if an operation fails because another worker is gone.

    `folder` has the checkpoints. An error of a strategy with one worker stays as it is.
    """
    try:
        yield
    except LOST_WORKER_ERRORS as error:
        if worker_count(strategy) < 2:
            raise
        raise _lost_worker(error, folder) from error


def _lost_worker(error, folder):
    # TensorFlow aborts what waits for a missing worker: at once if its process has ended, after
    # 10 s without a heartbeat if it hangs.
    reasons = [line for line in error.message.splitlines() if "aborted by" in line]
    reason = reasons[0].strip() if reasons else error_line(error)
    return TrainingError(
        f"Another worker is gone ({reason}): see that worker's output for the reason. Restart all "
        f"workers with the same command; the checkpoints are in {folder}"
    )


def failed_steps(
    run: RunContext, phase: Phase, first_step: int, end_step: int, error: tf.errors.OpError
) -> RuntimeError:
    """The error to raise when an operation of these steps failed: for images, their indices."""
    read = min(end_step + _READ_AHEAD, phase.end_step)  # images are read before their steps run
    if phase.unlabeled:
        _check_unlabeled(run, phase, first_step, read)
    images = images_of_steps(run.training, run.recipe, phase, first_step, read)
    return failed_images(run, images, first_step, error)


def failed_images(
    run: RunContext, images: Iterable[int], first_step: int, error: tf.errors.OpError
) -> RuntimeError:
    """:func:`failed_steps`, if the images that have been read are known."""
    training = run.training
    damaged = {training.where(i): why for i, why in corrupt(training, images)}
    if not damaged:
        return TrainingError(f"A step at or after {first_step} failed: {error_line(error)}")
    # With several workers, the others would wait forever for the one that has rolled back.
    if len(damaged) <= training.may_skip and worker_count(run.strategy) == 1:
        names = map(training.where, range(training.examples))  # oversampling repeats images
        every = {i: damaged[name] for i, name in enumerate(names) if name in damaged}
        return DamagedImagesError(every, len(damaged))
    named = [f"{name} ({why})" for name, why in damaged.items()]
    return TrainingError(
        f"{len(damaged)} images at or after step {first_step} cannot be decoded: "
        f"{', '.join(named[:5])}. The last checkpoint is kept. Repair or remove these files, or "
        "raise --max_corrupt. Of shards, `effnet-train prepare --check --data=...` lists all such "
        "records; prepare the shards again without them"
    )


def _check_unlabeled(run, phase, first_step, end_step):
    """Raises :class:`TrainingError` for pseudo-labeled images that cannot be decoded."""
    unlabeled = run.training.unlabeled
    images = unlabeled_of_steps(unlabeled, run.recipe, phase, first_step, end_step)
    for i, why in corrupt(unlabeled, images):
        raise TrainingError(
            f"{unlabeled.where(i)} cannot be decoded ({why}). The last checkpoint is kept. Label "
            "the images again (effnet-train pseudo-label)"
        )


def _replace_images(run, history, error):
    """Rolls back, with other images in the places of those that cannot be decoded."""
    training = run.training
    try:
        others = substitutes(training, sorted(error.images))
    except ValueError as problem:
        raise TrainingError(str(problem)) from error
    indices = np.arange(training.examples)
    indices[list(others)] = list(others.values())
    replaced = dataclasses.replace(training.take(indices), may_skip=training.may_skip - error.files)
    step, history = _roll_back(run, history.skipped_steps)
    lines = [
        f"{training.where(i)} cannot be decoded ({error.images[i]}): training on "
        f"{training.where(other)} instead, resuming after step {step}"
        for i, other in others.items()
    ]
    for line in dict.fromkeys(lines):
        run.metrics.log(line)
    return dataclasses.replace(run, training=replaced), step, history


def _skip_steps(run, history, error):
    """Rolls back and skips the steps of a NaN loss, unless the user wants to stop there."""
    if run.on_nan == "stop":
        raise TrainingError(str(error)) from error
    steps = f"{error.first_step}-{error.end_step - 1}"
    if len(history.skipped_steps) >= MAX_ROLLBACKS:
        raise TrainingError(
            f"The loss is NaN or Inf in steps {steps}, after {MAX_ROLLBACKS} times that steps were "
            f"skipped for it. {error}"
        ) from error
    skipped = [*history.skipped_steps, [error.first_step, error.end_step]]
    step, history = _roll_back(run, skipped)
    since = [first for first, _ in history.skipped_steps if first >= step]
    if len(since) >= MAX_ROLLBACKS_TO_ONE_STEP:
        raise TrainingError(
            f"The loss is NaN or Inf in steps {steps}, after {len(since) - 1} times that steps "
            f"were skipped since the last checkpoint, of step {step}: skipping more would not "
            f"help. {error}"
        ) from error
    run.metrics.log(
        f"loss is NaN or Inf in steps {steps}: skipping them and resuming after step {step}"
    )
    return step, history


def _accumulate_more(run, phase, history, error):
    """Rolls back, with twice as many gradient-accumulation steps if the batch can be divided."""
    possible = accumulations(run.recipe, phase, run.strategy.num_replicas_in_sync)
    accumulation = next((n for n in possible if n >= 2 * phase.accumulation), None)
    # With several workers, the others would wait forever for the one that has rolled back.
    if accumulation is None or worker_count(run.strategy) > 1:
        raise TrainingError(
            f"Out of memory in phase {phase.number} at {phase.image_size} px with a batch of "
            f"{phase.images}: lower --batch_size, or set --gradient_accumulation_first and "
            "--gradient_accumulation_last. The last checkpoint is kept"
        ) from error
    step, history = _roll_back(run, history.skipped_steps)
    history.accumulation = accumulation
    run.metrics.log(
        f"out of memory at {phase.image_size} px with a batch of {phase.images}: using "
        f"{accumulation} gradient-accumulation steps from now on, resuming after step {step}"
    )
    return step, history


def evaluation_out_of_memory(run: RunContext) -> TrainingError:
    """The error of an evaluation that exhausted the memory: accumulation would not help it."""
    recipe = run.recipe
    return TrainingError(
        f"Out of memory in the evaluation of {recipe.batch_size} images of "
        f"{recipe.image_size_eval} px at once: resume on a device with more memory, or train in "
        "another --workdir with a lower --batch_size or --image_size_eval. The last checkpoint is "
        "kept"
    )


def _roll_back(run, skipped_steps):
    """Restores the latest checkpoint; `skipped_steps`, which may be newer, stay skipped."""
    restored = run.checkpoints.restore_latest(run.state.variables, run.metrics.log)
    if restored is None:
        raise TrainingError(
            f"{run.checkpoints.folder} has no checkpoint to roll back to: the disk may be full"
        )
    run.metrics.roll_back(restored.step)
    history = TrainingHistory.from_json(restored.extra_state)
    history.skipped_steps += [r for r in skipped_steps if r not in history.skipped_steps]
    return restored.step, history
