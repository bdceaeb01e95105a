"""Selection of quantization steps: each is evaluated on images that it did not learn from, and kept
only if it lowers the errors by more than their own uncertainty.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tflite.evaluation import paired_statistics
from tflite.quantization.calibration import merged_histograms
from tflite.quantization.objective import MEASURES, OUTPUT_MEASURES, ImageErrors
from tflite.quantization.state import State
from tflite.quantization.steps import Choice, Context, Step

_NOISE_FLOOR = 0.99  # expected agreement: int8 kernels of two devices agree no better


@dataclass(frozen=True)
class QuantizationStep:
    """Result of one step, on held-out images."""

    name: str
    description: str
    kl_divergence: float  # KL(float || quantized) in nats; infinity if the model does not run
    agreement: float  # fraction of the images with the float model's prediction
    kept: bool = True
    # Decrease of the mean root of the images' divergences, as a share of that before the step, and
    # its standard error; None for a step that is always kept.
    gain: float | None = None
    standard_error: float | None = None
    evaluations: int = 1  # models evaluated
    skipped: str = ""  # why the step was not tried; its other fields are then those before it
    # What kl_divergence and agreement are for a model that is no classifier: the squared error
    # relative to the variance of the outputs, and their correlation. Of the user's metric: how much
    # worse it is than the float model's, and its value.
    measures: tuple[str, str] = MEASURES

    @property
    def runs(self) -> bool:
        """Whether the quantized model runs."""
        return math.isfinite(self.kl_divergence)

    @property
    def second_text(self) -> str:
        """The second measure as text: a percentage, or the number of the user's metric."""
        is_share = self.measures in (MEASURES, OUTPUT_MEASURES)
        return f"{self.agreement:.2%}" if is_share else f"{self.agreement:.5g}"

    @property
    def evidence(self) -> str:
        """The gain with its standard error, or why the step was skipped, as text."""
        if self.gain is None or not self.runs:
            return self.skipped
        return f"gain {self.gain:.1%} +- {self.standard_error:.1%}"

    def as_dict(self) -> dict:
        """For JSON: a ``kl_divergence`` of None for a model that does not run."""
        row = {**dataclasses.asdict(self), "runs": self.runs}
        if not self.runs:
            row.update(kl_divergence=None, gain=None, standard_error=None)
        if self.measures == MEASURES:
            del row["measures"]
        return row


@dataclass(frozen=True, eq=False)
class Fit:
    """The network after some steps, learned from each fold of the calibration images."""

    states: tuple[State, ...]  # one per fold
    errors: tuple[ImageErrors, ...] = ()  # each on the images that its fold did not learn from
    applied: tuple[tuple[Step, Choice], ...] = ()

    @property
    def pooled(self) -> ImageErrors:
        """The errors on the images of all folds."""
        return ImageErrors.joined(self.errors)

    def after(self, step: Step, choice: Choice, contexts: Sequence[Context]) -> Fit:
        """The fit with one more step."""
        states = tuple(
            step.propose(state, context, choice.argument)
            for state, context in zip(self.states, contexts)
        )
        errors = tuple(context.errors(state) for state, context in zip(states, contexts))
        return Fit(states, errors, (*self.applied, (step, choice)))

    def refitted(self, state: State, context: Context) -> State:
        """`state` after the applied steps, learned from the images of `context`."""
        for step, choice in self.applied:
            name = f"{step.name}{choice.suffix}"
            context.log(f"Learning from {len(context.images):,} images: {name}")
            state = step.propose(state, context, choice.argument)
        return state


def run_steps(
    steps: Sequence[Step],
    state: State,
    contexts: Sequence[Context],
    refit: Context | None = None,
) -> tuple[State, tuple[QuantizationStep, ...]]:
    """(the state after the steps that were kept, the result of each step).

    Args:
        steps: rows of the pipeline.
        state: to start from.
        contexts: one per fold of the calibration images.
        refit: what the kept steps learn from in the end; None or that of the only fold: the state
            that was evaluated is returned.
    """
    fit, rows, log, collected = Fit((state,) * len(contexts)), [], contexts[0].log, ()
    for step in steps:
        was_kept = any(row.name == step.after and row.kept for row in rows)
        if not step.enabled(contexts[0]) or (step.after and not was_kept):
            continue
        if not step.choices(fit.states[0]):  # the network has nothing that the step changes
            continue
        log(f"Quantization step: {step.name}")
        if fit.errors and step.least_gain is not None:
            reason = _reason_to_stop(fit, contexts) or _reason_to_skip(step, fit, contexts)
            if reason:
                log(f"  skipped: {reason}")
                rows.append(_skipped(step, reason, fit, contexts))
                continue
        fit, new = _run_step(step, fit, contexts)
        rows += new
        collected = collected or tuple(each.histograms for each in fit.states)
    if refit is None or len(contexts) == 1:
        return fit.states[0], tuple(rows)
    state = dataclasses.replace(state, histograms=merged_histograms(collected))
    return fit.refitted(state, refit), tuple(rows)


def _run_step(step, fit, contexts):
    """(the fit, with the step if it is kept; its rows)."""
    start, best, rows, tried, rejected = fit, fit, [], [], 0
    choices = list(step.choices(fit.states[0]))
    for choice in choices:
        used = len(contexts) * len(tried)
        if step.cumulative and (
            used >= contexts[0].options.search_evaluations or _reason_to_stop(best, contexts)
        ):
            break
        candidate = (best if step.cumulative else start).after(step, choice, contexts)
        row = _compared(step, choice, best, candidate, contexts, len(choices))
        tried.append((row, candidate))
        best, rejected = (candidate, 0) if row.kept else (best, rejected + 1)
        if step.cumulative and row.kept:
            rows.append(row)
        if rejected == step.patience:
            break
    if step.cumulative:
        return best, rows
    kept = [row for row, candidate in tried if candidate is best]
    row = kept[0] if kept else min((row for row, _ in tried), key=lambda row: row.kl_divergence)
    return best, [dataclasses.replace(row, evaluations=len(contexts) * len(tried))]


def _compared(step, choice, best, candidate, contexts, trials):
    """The row of a candidate, compared with the best so far."""
    errors, kept, gain = candidate.pooled, True, None
    if step.least_gain is not None and best.errors:
        gain = best.pooled.improvement_to(errors)
        trials = 1 if step.cumulative else trials
        kept = gain.is_significant(least=step.least_gain, trials=trials)
    detail = f" ({choice.detail})" if choice.detail else ""
    row = QuantizationStep(
        name=f"{step.name}{choice.suffix}",
        description=f"{step.description}{detail}",
        kl_divergence=errors.mean,
        agreement=errors.agreement,
        kept=kept,
        gain=gain and gain.gain,
        standard_error=gain and gain.standard_error,
        evaluations=len(contexts),
        measures=contexts[0].measures,
    )
    first, second = row.measures
    text = f"{first} {row.kl_divergence:.5f}, {second} {row.second_text}"
    text = ", ".join(filter(None, (text, row.evidence)))
    label = choice.suffix.strip(":, ") or choice.detail or step.name
    contexts[0].log(f"  {label}: {text}: {'kept' if kept else 'not kept'}")
    return row


def _skipped(step, reason, fit, contexts):
    errors = fit.pooled
    return QuantizationStep(
        step.name,
        step.description,
        errors.mean,
        errors.agreement,
        kept=False,
        evaluations=0,
        skipped=reason,
        measures=contexts[0].measures,
    )


def _reason_to_stop(fit, contexts):
    """Why no further step can be proved to help, as text; "" if one may."""
    objectives = [context.objective for context in contexts]
    if contexts[0].measures != MEASURES or contexts[0].preset.activations != "int8":
        return ""
    if objectives[0].model.output_activation not in ("softmax", "logits"):
        return ""
    errors = fit.pooled
    if not np.isfinite(errors.divergences).all():
        return ""
    log = np.concatenate([objective.log for objective in objectives])
    # Calibration images are often those of the training: margins and agreement of others are lower.
    expected = min(
        paired_statistics.expected_agreement(log, errors.divergences, unseen=unseen)
        for unseen in (False, True)
    )
    if min(expected, errors.agreement) < _NOISE_FLOOR:
        return ""
    return f"{expected:.2%} of the predictions are expected to stay the same"


def _reason_to_skip(step, fit, contexts):
    """Why a step is not worth trying, as text; "" if it is."""
    errors = fit.pooled
    if step.limit is None or errors.signed or not np.isfinite(errors.divergences).all():
        return ""
    removable = ImageErrors.joined([step.limit(*each) for each in zip(fit.states, contexts)])
    gain = 1 - math.sqrt(max(0.0, 1 - removable.mean / max(errors.mean, 1e-12)))
    detectable = paired_statistics.detectable_gain(errors.divergences)
    if gain > detectable:
        return ""
    return f"its best possible gain, {gain:.1%}, is within the noise of {detectable:.1%}"
