"""Post-training quantization pipeline. Each step is evaluated on held-out images and kept only if
it lowers the KL divergence to the float model.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_effnet.litert import ops, runner
from tflite.presets import Preset
from tflite.quantization.calibration import CalibrationImages, calibrate
from tflite.quantization.calibration_cache import NO_CACHE
from tflite.quantization.mixed_precision import Budget, Float32Region, within_budget
from tflite.quantization.normalization_folding import fold_normalization
from tflite.quantization.objective import MEASURES, OUTPUT_MEASURES, Objective, held_out
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.quantization.state import State
from tflite.quantization.steps import STEPS, WEIGHT_STEPS, Context, Step, make_context

_FOLDING_IMAGES = 8  # that normalization folding is checked on


@dataclass(frozen=True)
class QuantizationStep:
    """Result of one step, on held-out images."""

    name: str
    description: str
    kl_divergence: float  # KL(float || quantized) in nats; infinity if the model does not run
    agreement: float  # fraction of the images with the float model's prediction
    seconds: float
    kept: bool = True
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

    def as_dict(self) -> dict:
        """For JSON: a ``kl_divergence`` of None for a model that does not run."""
        kl = self.kl_divergence if self.runs else None
        row = {**dataclasses.asdict(self), "kl_divergence": kl, "runs": self.runs}
        if self.measures == MEASURES:
            del row["measures"]
        return row


def is_kept(kl_divergence: float, best: float, threshold: float | None) -> bool:
    """Whether a step is kept whose divergence is `kl_divergence`, after a best one of `best`."""
    return threshold is None or kl_divergence < threshold * best


def run_steps(
    steps: Sequence[Step], state: State, context: Context
) -> tuple[State, tuple[QuantizationStep, ...]]:
    """(the state after the steps that were kept, the result of each step)."""
    results = []
    for step in steps:
        was_kept = any(row.name == step.after and row.kept for row in results)
        if not step.enabled(context) or (step.after and not was_kept):
            continue
        if step.trials is None:
            state, row = _run_step(step, state, context)
            results.append(row)
            continue
        deadline = time.monotonic() + context.options.search_seconds
        for trial, tensors in step.trials(state).items():
            if time.monotonic() > deadline:
                break
            propose = functools.partial(step.propose, tensors=tensors)
            named = dataclasses.replace(step, name=f"{step.name}, {trial}", propose=propose)
            state, row = _run_step(named, state, context)
            results += [row] if row.kept else []
    return state, tuple(results)


def _run_step(step, state, context):
    context.log(f"Quantization step: {step.name}")
    start = time.monotonic()
    candidate = step.propose(state, context)
    kl, agreement = candidate.score or context.evaluate(candidate.state)
    kept = is_kept(kl, state.kl_divergence, step.threshold)
    row = QuantizationStep(
        f"{step.name}{candidate.variant}",
        f"{step.description} ({candidate.detail})" if candidate.detail else step.description,
        kl,
        agreement,
        time.monotonic() - start,
        kept,
        context.measures,
    )
    kept_or_not = "kept" if kept else "not kept"
    first, second = row.measures
    context.log(f"  {first} {kl:.5f}, {second} {row.second_text}: {kept_or_not}")
    return dataclasses.replace(candidate.state, kl_divergence=kl) if kept else state, row


@dataclass(frozen=True, eq=False)
class Quantized:
    """Result of the pipeline."""

    tflite_model: bytes
    exact_model: bytes  # float32; the same function, with the tensors of `tflite_model`
    plan: QuantPlan
    ranges: dict | None = None
    steps: tuple[QuantizationStep, ...] = ()
    regions: tuple[Float32Region, ...] = ()


def run(
    float32_model: bytes,
    preset: Preset,
    calibration: CalibrationImages | None,
    options: ConversionOptions,
    *,
    budget: Budget | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Quantized:
    """A float32 .tflite :class:`Quantized` by a preset.

    Args:
        float32_model: bytes of the float32 .tflite.
        preset: a :class:`~tflite.presets.Preset`.
        calibration: images; None for a preset that needs none: the model is converted directly.
        options: a :class:`~tflite.quantization.options.ConversionOptions`.
        budget: for int8_mixed.
        log: called with lines of text.

    Raises:
        ConversionError: a conversion failed its checks.
        BudgetError: the budget cannot be met.
    """
    if calibration is None:
        plan = make_plan(ops.read_ops(float32_model), preset)
        return Quantized(quantize(float32_model, None, plan), float32_model, plan)
    if preset.calibrated:
        float32_model = _folded(float32_model, preset, calibration)
    if options.recipe is not None:
        options.recipe.check(make_plan(ops.read_ops(float32_model), preset))
    int8 = preset.activations == "int8"
    context = make_context(float32_model, preset, calibration, options, log)
    state = State(float32_model, exact_model=float32_model, uncompensated_model=float32_model)
    state, steps = run_steps(STEPS if int8 else WEIGHT_STEPS, state, context)
    if preset.activations == "int16":  # 65,536 values: min-max ranges suffice
        ranges = calibrate(state.float32_model, calibration.images)
        state = dataclasses.replace(state, ranges=ranges)
    plan, regions = dataclasses.replace(context, preset=preset).plan(state), ()
    if options.recipe is not None:
        log(f"Applying {options.recipe.name}")
        plan, ranges = options.recipe.applied(plan, state.ranges)
        state = dataclasses.replace(state, ranges=ranges)
        model = state.quantized_with_regions(plan)
        require_runs(model, options.recipe.name)
        return Quantized(model, state.exact_model, plan, state.ranges, steps, regions)
    if preset.name == "int8_mixed":
        log(f"Mixed precision: {budget}")
        plan, regions = within_budget(
            budget,
            state,
            plan,
            held_out=budget_objective(float32_model, calibration, context.cache),
            objective=context.objective.without_metric(),
            seconds=options.search_seconds,
            log=log,
        )
    model = state.quantized_with_regions(plan) if regions else state.quantized(plan)
    return Quantized(model, state.exact_model, plan, state.ranges, steps, regions)


def require_runs(tflite_model: bytes, name: str) -> None:
    """Raises ``ConversionError`` for a model that a plan file has made impossible to run."""
    try:
        runner.open_interpreter(tflite_model).invoke()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ops.ConversionError(
            f"the model does not run with the ranges and precisions of {name}: {reason}"
        ) from error


def _folded(float32_model, preset, calibration):
    # int8-only hardware pads with zeros only; ai-edge-quantizer 0.10 cannot concatenate int16
    # constants.
    subtract = preset.name == "int8_strict" or preset.activations == "int16"
    return fold_normalization(
        float32_model,
        border="subtract" if subtract else "constant",
        images=calibration.images[:_FOLDING_IMAGES],
    )


def budget_objective(float32_model, calibration, cache=NO_CACHE):
    """Objective on all held-out images, with their labels."""
    _, held = held_out(len(calibration))
    labels = None if calibration.labels is None else calibration.labels[held]
    return Objective(float32_model, calibration.images[held], labels, cache=cache)
