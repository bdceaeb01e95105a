"""Walks the phases of a run: batches, traced steps, evaluations, saves; and mends what can be.

A loss that is no number and an accelerator's memory that is full both leave variables half changed:
the walk then goes back to the newest checkpoint, and on with some steps left out or with batches
that are computed in more parts.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Callable, Optional

import keras
import numpy as np
import tensorflow as tf

from tpu_train.checkpointing import storage
from tpu_train.checkpointing.manager import NotFiniteError, Saves, TooManyRollbacksError, segments
from tpu_train.input_pipeline.batches import images_of_steps, training_batches
from tpu_train.input_pipeline.image_source import ImageSource, corrupt, error_line
from tpu_train.recipes.phases import batch_size_error
from tpu_train.recipes.schema import Recipe
from tpu_train.training import distributed_layers
from tpu_train.training.lr_schedule import learning_rate
from tpu_train.training.metrics_writer import Progress
from tpu_train.training.step import State, traced_steps

ON_NAN = ("stop", "skip")
_READ_AHEAD = 64  # steps
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_LOST += (tf.errors.InternalError, tf.errors.DeadlineExceededError)


class TrainingError(RuntimeError):
    """A run that cannot go on, with what to change."""


class _LossIsNoNumber(RuntimeError):  # noqa: N818 - it says what happened
    def __init__(self, first_step, end_step, advice):
        super().__init__(advice)
        self.first_step, self.end_step = first_step, end_step


@dataclass(frozen=True)
class PhaseResult:
    """What one phase took and reached; accuracies are shares of 1 on the evaluation images."""

    number: int
    image_size: int
    steps: int
    seconds: float
    loss: float  # mean over the last host call's training steps
    accuracy: float  # of the averaged weights
    accuracy_raw: float


@dataclass(frozen=True)
class Run:
    """What the phases of a run share."""

    recipe: Recipe
    phases: tuple
    training: ImageSource
    strategy: tf.distribute.Strategy
    net: keras.Model
    state: State
    class_weights: Optional[np.ndarray]
    evaluate: Callable
    eval_epochs: float  # between evaluations; 0 for the ends of phases alone
    progress: Progress
    saves: Saves
    on_nan: str
    improved: Callable  # called after the best evaluation so far


def walk(run, begin):
    """All phases from `begin`, a checkpoint or None: a list of :class:`PhaseResult`."""
    try:
        return _walk_phases(run, begin)
    except _LOST as error:
        if workers(run.strategy) < 2:
            raise
        # TensorFlow ends what waits for a worker that is gone: at once for one that died, after
        # 10 s without a sign of life for one that hangs.
        lines = [line for line in error.message.splitlines() if "aborted by" in line]
        raise TrainingError(
            f"Another worker is gone ({lines[0].strip() if lines else error_line(error)}): its "
            "output says why. Start all of them again with the same command; the checkpoints are "
            f"in {run.saves.folder}"
        ) from error


def _walk_phases(run, begin):
    saves, progress = run.saves, run.progress
    if begin is None:
        # What a rollback in the first phase goes back to; a disk that takes nothing is told now.
        saves.at(0, run.state, [], progress, phase_is_over=True)
        step, results = 0, []
    else:
        step, results = _restore(run, begin)
    while len(results) < len(run.phases):
        parts = saves.kept.get("accumulation", 1)
        phase = run.phases[len(results)]
        phase = dataclasses.replace(phase, accumulation=max(parts, phase.accumulation))
        try:
            results = [*results, _walk(run, phase, max(step, phase.first_step), results)]
            progress.say(_line(results[-1], len(run.phases)))
            step = phase.end_step
            _save(run, phase, step, results, phase_is_over=True)
        except _LossIsNoNumber as trouble:
            if run.on_nan == "stop":
                raise TrainingError(str(trouble)) from trouble
            try:
                saves.skip(trouble.first_step, trouble.end_step)
            except TooManyRollbacksError as too_many:
                raise TrainingError(f"{too_many}. {trouble}") from trouble
            step, results = _roll_back(run)
            progress.say(
                f"the loss was no number in steps {trouble.first_step} to {trouble.end_step - 1}: "
                f"they are left out; going on after step {step}"
            )
        except tf.errors.ResourceExhaustedError as trouble:
            parts = _more_parts(run, phase, trouble)
            step, results = _roll_back(run)
            saves.kept["accumulation"] = parts
            progress.say(
                f"out of memory at {phase.image_size} px: from here on a batch of "
                f"{phase.batch_size} is computed in {parts} parts; going on after step {step}"
            )
    return results


def _restore(run, begin):
    storage.restore(begin, run.state.variables)
    return begin.step, [PhaseResult(**phase) for phase in begin.notes["phases"]]


def _roll_back(run):
    begin = run.saves.find(run.progress.say)
    if begin is None:
        raise TrainingError(
            f"{run.saves.folder} has no checkpoint to go back to: the disk may be full"
        )
    run.progress.back(begin.step)
    return _restore(run, begin)


def _save(run, phase, step, results, *, phase_is_over):
    """Saves if it is time; weights that are no numbers are the fault of the step before."""
    try:
        run.saves.at(step, run.state, results, run.progress, phase_is_over=phase_is_over)
    except NotFiniteError as trouble:
        raise _LossIsNoNumber(step - 1, step, _advice(run, phase, str(trouble))) from trouble


def _advice(run, phase, what):
    return (
        f"{what} (phase {phase.number}, {phase.image_size} px): lower --learning_rate (now "
        f"{run.recipe.learning_rate}), set --clip_norm=1, lengthen --warmup_epochs, or give "
        "--on_nan=skip. The last checkpoint is kept"
    )


def _more_parts(run, phase, trouble):
    """Twice the parts, if a part still has images for every replica; raises otherwise."""
    parts = 2 * phase.accumulation
    why = batch_size_error(
        run.recipe,
        dataclasses.replace(phase, accumulation=parts),
        run.strategy.num_replicas_in_sync,
    )
    if why or workers(run.strategy) > 1:  # the others would wait for this one for ever
        raise TrainingError(
            f"Out of memory in phase {phase.number} at {phase.image_size} px with a batch of "
            f"{phase.batch_size}: lower --batch_size, or set --gradient_accumulation_first and "
            "--gradient_accumulation_last. The last checkpoint is kept"
        ) from trouble
    return parts


def _walk(run, phase, first_step, results):
    """One phase, or the rest of it from `first_step`; `results` are those of the phases before."""
    began = time.monotonic()
    run.progress.begin(phase, len(run.phases), first_step=first_step)
    full = max(run.recipe.drop_path_first, run.recipe.drop_path_last)
    distributed_layers.set_dropout(
        run.net, phase.dropout_rate, phase.drop_path_rate / full if full else 0.0
    )
    loss = math.nan
    for first, end in segments(first_step, phase.end_step, run.saves.skipped):
        loss = _walk_segment(run, phase, first, end, results)
    reached = _evaluate(run, phase, phase.end_step)
    result = PhaseResult(
        number=phase.number,
        image_size=phase.image_size,
        steps=phase.end_step - phase.first_step,
        seconds=time.monotonic() - began,
        loss=loss,
        accuracy=reached["averaged"],
        accuracy_raw=reached["raw"],
    )
    run.progress.end(
        {
            "step": phase.end_step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "seconds": result.seconds,
        }
    )
    return result


def _walk_segment(run, phase, first_step, end_step, results):
    """Steps [first_step, end_step) of a phase; the loss of the last host call."""
    recipe, strategy = run.recipe, run.strategy
    began = time.monotonic()

    def rate(step):
        return learning_rate(
            recipe,
            phase,
            step,
            examples=run.training.examples,
            total_examples=_images(run.phases),
        )

    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                run.training,
                recipe,
                phase,
                first_step=first_step,
                end_step=end_step,
                replicas=strategy.num_replicas_in_sync,
                host=context.input_pipeline_id,
                hosts=context.num_input_pipelines,
            )
        )
    )
    run_steps = traced_steps(
        recipe,
        phase,
        len(run.training.classes),
        strategy,
        run.net,
        run.state,
        rate,
        batches,
        run.class_weights,
    )
    every = max(1, round(run.eval_epochs * run.training.examples / phase.batch_size))
    step = first_step
    while step < end_step:
        steps = min(recipe.steps_per_loop, end_step - step)
        if run.eval_epochs:
            steps = min(steps, every - step % every)
        started = time.monotonic()
        try:
            sums = run_steps(batches, tf.constant(step, tf.int64), tf.constant(steps, tf.int64))
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as trouble:
            raise _named(run, phase, step, steps, trouble) from trouble
        loss, correct, norm = sums.numpy() / steps
        step += steps
        overflows = run.state.loss_scale is not None  # which float16 does now and then
        if not (math.isfinite(loss) and (overflows or math.isfinite(norm))):
            raise _LossIsNoNumber(
                step - steps,
                step,
                _advice(run, phase, f"The loss is {loss}, its gradient {norm} at step {step - 1}"),
            )
        now = time.monotonic()
        run.saves.kept["training_seconds"] = (
            run.saves.kept.get("training_seconds", 0.0) + now - began
        )
        record = {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "learning_rate": float(rate(tf.constant(step - 1))),
            "loss": float(loss),
            "accuracy": float(correct) / phase.batch_size,
            "gradient_norm": float(norm),
            "images_per_second": steps * phase.batch_size / (now - started),
        }
        run.progress.step(record, steps * phase.batch_size)
        if step < phase.end_step:
            if run.eval_epochs and step % every == 0:
                _evaluate(run, phase, step)
            _save(run, phase, step, results, phase_is_over=False)
        began = time.monotonic()
    return record["loss"]


def _named(run, phase, step, steps, trouble):
    """What to raise for an operation that failed: which images it was, if it was of them."""
    ahead = step + steps + _READ_AHEAD  # images are read before their steps run
    near = images_of_steps(run.training, run.recipe, phase, step, min(ahead, phase.end_step))
    bad = [f"{run.training.where(i)} ({why})" for i, why in corrupt(run.training, near)]
    if not bad:
        return TrainingError(f"A step at or after {step} failed: {error_line(trouble)}")
    return TrainingError(
        f"{len(bad)} of the images of steps {step} and on cannot be decoded: {', '.join(bad[:5])}. "
        "The last checkpoint is kept. `effnet-train prepare --check --data=...` finds all such "
        "records of shards; prepare them again without"
    )


def _evaluate(run, phase, step):
    """``{"averaged", "raw"}`` accuracies; told, and remembered for the best checkpoint."""
    reached = run.evaluate()
    before = run.saves.evaluations
    best = max((e["averaged"] for e in before), default=-1.0)
    if not any(e["step"] == step for e in before):  # a resumed run may evaluate a step again
        run.saves.evaluated(step, reached)
    run.progress.evaluated(
        {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "evaluation_accuracy": reached["averaged"],
            "evaluation_accuracy_raw": reached["raw"],
            "training_seconds": run.saves.kept.get("training_seconds", 0.0),
        }
    )
    if reached["averaged"] > best:
        run.improved()
    return reached


def _images(phases):
    return sum((p.end_step - p.first_step) * p.batch_size for p in phases)


def workers(strategy):
    """How many processes train together; the hosts of a TPU pod are one's."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(cluster.get(job, ())) for job in ("chief", "worker"))


def _line(r, phases):
    return (
        f"phase {r.number}/{phases}, {r.image_size} px: {r.steps} steps in {r.seconds:.0f} s, "
        f"held-out accuracy {r.accuracy:.2%} (raw weights {r.accuracy_raw:.2%})"
    )
