"""Post-training quantization pipeline: folding, the steps, mixed precision, the quantizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from keras_effnet.litert import ops, runner
from tflite.presets import Preset
from tflite.quantization.calibration import CalibrationImages, calibrate
from tflite.quantization.calibration_cache import NO_CACHE
from tflite.quantization.mixed_precision import Budget, Float32Region, within_budget
from tflite.quantization.normalization_folding import fold_normalization
from tflite.quantization.objective import Objective, held_out
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.quantization.state import State
from tflite.quantization.step_selection import QuantizationStep, run_steps
from tflite.quantization.steps import STEPS, WEIGHT_STEPS, make_contexts, refit_context

_FOLDING_IMAGES = 8  # that normalization folding is checked on


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
    contexts = make_contexts(float32_model, preset, calibration, options, log)
    refit = refit_context(contexts, calibration)
    state = State(float32_model, exact_model=float32_model, uncompensated_model=float32_model)
    state, steps = run_steps(STEPS if int8 else WEIGHT_STEPS, state, contexts, refit)
    if preset.activations == "int16":  # 65,536 values: min-max ranges suffice
        ranges = calibrate(state.float32_model, calibration.images)
        state = dataclasses.replace(state, ranges=ranges)
    plan, regions = dataclasses.replace(refit, preset=preset).plan(state), ()
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
            held_out=budget_objective(float32_model, calibration, refit.cache),
            objective=refit.objective.without_metric(),
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
