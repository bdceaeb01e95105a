"""Runs the training phases: batches, traced steps, evaluations, checkpoints, and when to stop.

What happens after a failure is in :mod:`tpu_train.training.recovery`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tpu_train.checkpointing.manager import NotFiniteError
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.training import distributed_layers, evaluation_history, recovery
from tpu_train.training.distribution import distributed_dataset
from tpu_train.training.feature_cache import make_feature_cache
from tpu_train.training.graph_memory import released_gradients
from tpu_train.training.lr_schedule import learning_rate
from tpu_train.training.metrics_writer import describe_evaluation
from tpu_train.training.run_context import PhaseResult, RunContext, TrainingHistory
from tpu_train.training.step import StepSpec, trace_steps


def train_phases(run: RunContext, restored: tuple[int, TrainingHistory] | None) -> TrainingHistory:
    """Trains all phases that are left; returns the final history.

    `restored` is the step and the history of the checkpoint from which the run resumes, or None.

    Raises :class:`~tpu_train.checkpointing.preemption.StoppedError` after a stop, and
    :class:`~tpu_train.training.recovery.TrainingError` if the run cannot continue.
    """
    step, history = restored or (0, TrainingHistory())
    if restored is None:
        # A rollback in the first phase returns to it, and an unwritable disk is noticed now.
        _save_or_stop(run, 0, history, end_of_phase=True)
    elif len(history.phases) < len(run.phases) and _is_at_best(run, step, history):
        run.on_improvement()  # a finished run, which is extended, has it as model.keras only
    while len(history.phases) < len(run.phases):
        phase = run.phases[len(history.phases)]
        phase = recovery.in_accumulation_steps(run, phase, history)
        try:
            result = _train_phase(run, phase, max(step, phase.first_step), history)
            history.phases.append(result)
            run.metrics.log(_summary(result, run, history))
            step = phase.first_step + result.steps
            _checkpoint(run, phase, step, history, end_of_phase=True)
        except recovery.RECOVERABLE as error:
            run, step, history = recovery.recover(run, phase, history, error)
    return history


def segments(
    first_step: int, end_step: int, skipped: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """[(first, end), ...]: the steps of [first_step, end_step) that are in no skipped range.

    >>> segments(10, 40, [[20, 25], [0, 12]])
    [(12, 20), (25, 40)]
    """
    remaining, step = [], first_step
    for first, end in sorted(skipped):
        if step < min(first, end_step):
            remaining.append((step, min(first, end_step)))
        step = max(step, end)
    return [*remaining, (step, end_step)] if step < end_step else remaining


@released_gradients()
def _train_phase(run, phase, first_step, history):
    """Trains a phase from `first_step` and evaluates: its :class:`PhaseResult`."""
    start = time.monotonic()
    run.metrics.start_phase(phase, len(run.phases), first_step=first_step)
    distributed_layers.set_phase(run.model, run.recipe, phase)
    cache = _feature_cache(run, phase, first_step)
    loss, step = math.nan, phase.end_step
    for first, end in segments(first_step, phase.end_step, history.skipped_steps):
        loss, step = _train_steps(run, phase, first, end, history, cache)
        if _ends_early(run, phase, step, history):  # also where a skipped range begins
            break
    else:
        step = phase.end_step
        _evaluate(run, phase, step, history)
    accuracies = next((e for e in history.evaluations if e["step"] == step), {})
    result = PhaseResult(
        number=phase.number,
        image_size=phase.image_size,
        steps=step - phase.first_step,
        seconds=time.monotonic() - start,
        loss=loss,
        accuracy=accuracies.get("ema"),
        accuracy_non_ema=accuracies.get("non_ema"),
    )
    run.metrics.end_phase(
        {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "seconds": result.seconds,
        }
    )
    return result


def _feature_cache(run, phase, step):
    """The feature cache of a phase that begins or resumes at `step`, if it has one."""
    try:
        return make_feature_cache(
            *(run.strategy, run.model, run.training, run.recipe, phase),
            log=run.metrics.log,
            before_batch=lambda: _stop_before(run, step),
        )
    except recovery.STEP_ERRORS as error:
        raise recovery.failed_images(run, range(run.training.examples), step, error) from error


def _train_steps(run, phase, first_step, end_step, history, cache):
    """Trains steps [first_step, end_step) of a phase, or fewer if early stopping ends it.

    Returns the loss of the last host call and the step after it.
    """
    start = time.monotonic()
    spec = _step_spec(run, phase, cache)
    batches = _batches(run, phase, first_step, end_step, cache)
    run_steps = trace_steps(spec, batches)
    _follow_plateaus(run, history)
    eval_steps = max(1, round(run.eval_epochs * run.training.examples / phase.batch_size))
    step = first_step
    run.profiler.update(step)
    while step < end_step:
        steps = run.profiler.limit(step, min(run.recipe.steps_per_loop, end_step - step))
        if run.eval_epochs:
            steps = min(steps, eval_steps - step % eval_steps)
        call_start = time.monotonic()
        try:
            sums = run_steps(batches, tf.constant(step, tf.int64), tf.constant(steps, tf.int64))
        except recovery.STEP_ERRORS as error:
            raise recovery.failed_steps(run, phase, step, step + steps, error) from error
        *sums, waited = sums.numpy()
        recovery.check_finite(run, phase, step, step + steps, np.array(sums))
        loss, correct, norm = (s / steps for s in sums)
        step += steps
        run.profiler.update(step)
        now = time.monotonic()
        history.training_seconds += now - start
        run.metrics.log_steps(
            {
                "step": step,
                "phase": phase.number,
                "image_size": phase.image_size,
                "learning_rate": float(spec.learning_rate(tf.constant(step - 1))),
                "loss": float(loss),
                "accuracy": float(correct) / phase.images,
                "gradient_norm": float(norm),
                "images_per_second": steps * phase.images / (now - call_start),
                "input_wait": min(1.0, float(waited) / (now - call_start)),
            },
            steps * phase.images,
        )
        if step < phase.end_step:
            if run.eval_epochs and step % eval_steps == 0:
                _evaluate(run, phase, step, history)
                if _ends_early(run, phase, step, history):
                    break
                _follow_plateaus(run, history)
            _checkpoint(run, phase, step, history, end_of_phase=False)
        start = time.monotonic()
    return float(loss), step


def _ends_early(run, phase, step, history):
    """Whether early stopping ends the phase at `step`, before its last one."""
    return step < phase.end_step and evaluation_history.ends_early(
        history.evaluations, run.recipe, phase
    )


def _follow_plateaus(run, history):
    """Sets the factor of the learning rate that follows from the evaluations so far."""
    if run.rate_factor is not None:
        recipe = run.recipe
        plateaus = evaluation_history.count_plateaus(
            history.evaluations, recipe.early_stopping_metric, recipe.plateau_patience
        )
        run.rate_factor.assign(recipe.decay_factor**plateaus)


def _step_spec(run, phase, cache):
    def rate(step):
        planned = learning_rate(
            run.recipe,
            phase,
            step,
            examples=run.training.examples,
            total_examples=_images(run.phases),
        )
        return planned if run.rate_factor is None else planned * run.rate_factor

    return StepSpec(
        recipe=run.recipe,
        phase=phase,
        classes=len(run.training.classes),
        strategy=run.strategy,
        model=run.model if cache is None else cache.head,
        state=run.state,
        learning_rate=rate,
        class_weights=run.class_weights,
        teacher=run.teacher,
    )


def _batches(run, phase, first_step, end_step, cache):
    """An iterator of the batches of steps [first_step, end_step), of all replicas."""
    host_batches = training_batches if cache is None else cache.batches
    return iter(
        distributed_dataset(
            run.strategy,
            lambda context: host_batches(
                run.training,
                run.recipe,
                phase,
                first_step=first_step,
                end_step=end_step,
                replicas=run.strategy.num_replicas_in_sync,
                host=context.input_pipeline_id,
                hosts=context.num_input_pipelines,
            ),
        )
    )


def _evaluate(run, phase, step, history):
    """Evaluates and records, if there are evaluation images."""
    if run.evaluate is None:
        return
    try:
        accuracies = run.evaluate()
    except tf.errors.ResourceExhaustedError as error:
        raise recovery.evaluation_out_of_memory(run) from error
    others = {f"evaluation_{k}": v for k, v in accuracies.items() if k not in ("ema", "non_ema")}
    metric = evaluation_history.metric_of(run.recipe)
    is_best = evaluation_history.improves(history.evaluations, accuracies, metric)
    # After a rollback, a step may be evaluated again.
    if not any(e["step"] == step for e in history.evaluations):
        history.evaluations.append({"step": step, **accuracies})
    run.metrics.log_evaluation(
        {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "evaluation_accuracy_ema": accuracies["ema"],
            "evaluation_accuracy_non_ema": accuracies["non_ema"],
            **others,
            "training_seconds": history.training_seconds,
        }
    )
    if is_best:
        run.on_improvement()
    if not evaluation_history.is_finite(accuracies):
        run.metrics.log(
            f"the evaluation after step {step} gives NaN or Inf: these weights are not kept as the "
            "best ones"
        )


def _is_at_best(run, step, history):
    """Whether the weights after `step` are those of the best evaluation so far."""
    best = evaluation_history.find_best(
        history.evaluations, evaluation_history.metric_of(run.recipe)
    )
    return best is not None and best["step"] == step and evaluation_history.is_finite(best)


def _checkpoint(run, phase, step, history, *, end_of_phase):
    """:func:`_save_or_stop`; weights with NaN or Inf are blamed on the last step."""
    try:
        _save_or_stop(run, step, history, end_of_phase=end_of_phase)
    except NotFiniteError as error:
        message = recovery.nan_advice(run, phase, str(error))
        raise recovery.LossNotFiniteError(step - 1, step, message) from error


def _save_or_stop(run, step, history, *, end_of_phase):
    """Saves a checkpoint at the end of a phase, when one is due, and before stopping.

    Raises :class:`StoppedError` if this or another worker was asked to stop.
    """
    manager, reason = run.checkpoints, run.stop()
    metric = evaluation_history.metric_of(run.recipe)
    is_best = evaluation_history.is_new_best(history.evaluations, step, metric)
    votes = manager.gather([bool(reason), manager.should_save(is_best)])
    stopping, due = votes[:, 0].any(), votes[0, 1]  # any worker can stop the run; the chief saves
    if not (stopping or due or end_of_phase):
        return
    failure = None
    try:
        manager.save(step, run.state.variables, history.to_json(), is_best=is_best)
    except OSError as error:
        failure = error
        run.metrics.log(
            f"cannot save a checkpoint at step {step}: {error}. {manager.describe_latest()}"
        )
    if stopping and failure:
        raise StoppedError(
            f"{_stopped_after(step, reason)}, which could not be saved: {failure}. "
            f"{manager.describe_latest()}"
        )
    if stopping:
        raise _stopped(run, step, reason)


def _stop_before(run, step):
    """Raises :class:`StoppedError`, before a step from which the run resumes, as above."""
    reason = run.stop()
    if run.checkpoints.gather([bool(reason)]).any():
        raise _stopped(run, step, reason)


def _stopped(run, step, reason):
    message = f"{_stopped_after(step, reason)}. The same command resumes the run"
    return StoppedError(f"{message} ({run.checkpoints.folder})")


def _stopped_after(step, reason):
    return f"Stopped after step {step} ({reason or 'requested on another worker'})"


def _images(phases):
    return sum((p.end_step - p.first_step) * p.batch_size for p in phases)


def _summary(result, run, history):
    planned = run.phases[result.number - 1]
    early = result.steps < planned.end_step - planned.first_step
    evaluation = "no evaluation images"
    if history.evaluations:
        evaluation = describe_evaluation(history.evaluations[-1])
    return (
        f"phase {result.number}/{len(run.phases)}, {result.image_size} px: {result.steps} steps in "
        f"{result.seconds:.0f} s{', stopped early' if early else ''}, {evaluation}"
    )
