"""Steps of post-training quantization: each proposes a changed state. ``STEPS`` has their order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import ops
from tflite.evaluation import sqnr
from tflite.flatbuffer.graph import Graph, swishes
from tflite.presets import Preset, find_preset
from tflite.quantization import bias_correction, equalization, weight_rounding
from tflite.quantization.calibration import (
    CalibrationImages,
    accumulate_histograms,
    cached_histograms,
)
from tflite.quantization.calibration_cache import NO_CACHE, CalibrationCache, default_folder
from tflite.quantization.objective import (
    MEASURES,
    ImageErrors,
    Objective,
    folds,
    held_out,
)
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.quantization.range_estimation import ESTIMATORS, estimate_ranges
from tflite.quantization.state import State

STRENGTHS = (0.5, 1.0)  # of equalization
_OBJECTIVE_IMAGES = 256  # held-out images, at most, that a step is evaluated on
_ROUNDING_IMAGES = 64
_CHECK_IMAGES = 4  # that function-preserving transforms are checked on
_STAGE = re.compile(r"block\d+|.+")


@dataclass(frozen=True, eq=False)
class Context:
    """What the steps read and never change."""

    preset: Preset
    float32_model: bytes  # before all steps
    images: np.ndarray  # uint8, to learn from, in hash order
    objective: Objective  # on held-out images
    options: ConversionOptions
    calibration_images: int = 0  # all, for the plan
    measures: tuple[str, str] = MEASURES  # what the errors are
    cache: CalibrationCache = NO_CACHE
    log: Callable[[str], None] = lambda line: None

    def plan(self, state: State) -> QuantPlan:
        """The plan of a state's model."""
        return make_plan(
            ops.read_ops(state.float32_model),
            self.preset,
            calibration_images=self.calibration_images,
            range_description=ESTIMATORS[state.estimator].description,
        )

    def errors(self, state: State) -> ImageErrors:
        """The errors of a state's model, quantized, on the held-out images."""
        return self.objective.errors(state.quantized(self.plan(state)))


def make_contexts(
    float32_model: bytes,
    preset: Preset,
    calibration: CalibrationImages,
    options: ConversionOptions,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Context, ...]:
    """A :class:`Context` for each of the ``objective.folds``: images to learn from, and an
    objective on held-out images.

    A budget is measured on images that nothing was learned from, and fine-tuning takes minutes:
    both use one fold. Only the weights are quantized while steps for other than int8 activations
    are evaluated.
    """
    crossed = not (preset.name == "int8_mixed" or options.finetunes(preset))
    parts = folds(len(calibration)) if crossed else [held_out(len(calibration))]
    cache = CalibrationCache(default_folder(), log=log) if options.cache else NO_CACHE
    contexts = []
    for learning, held in parts:
        held = held[:_OBJECTIVE_IMAGES]
        labels = None if calibration.labels is None else calibration.labels[held]
        objective = Objective(
            float32_model, calibration.images[held], labels, metric=options.metric, cache=cache
        )
        contexts.append(
            Context(
                preset=preset if preset.activations == "int8" else find_preset("weight_only"),
                float32_model=float32_model,
                images=calibration.images[learning],
                objective=objective,
                options=options,
                calibration_images=len(calibration) if preset.calibrated else 0,
                cache=cache,
                log=log,
                measures=objective.measures,
            )
        )
    return tuple(contexts)


def refit_context(contexts: Sequence[Context], calibration: CalibrationImages) -> Context:
    """The context that the kept steps learn from in the end: with several folds, all images."""
    if len(contexts) == 1:
        return contexts[0]
    return dataclasses.replace(contexts[0], images=calibration.images)


@dataclass(frozen=True)
class Choice:
    """One way to run a step."""

    argument: object = None  # of ``Step.propose``
    suffix: str = ""  # of the step's name
    detail: str = ""  # for its description


@dataclass(frozen=True)
class Step:
    """One row of the pipeline."""

    name: str
    description: str
    propose: Callable[[State, Context, object], State]  # learns from the context's images
    # In the order in which they are tried; a later one replaces an earlier one on evidence only.
    choices: Callable[[State], Sequence[Choice]] = lambda state: (Choice(),)
    least_gain: float | None = 0.0  # of the root error, beside its uncertainty; None: always kept
    after: str = ""  # only if the step of that name was kept
    enabled: Callable[[Context], bool] = lambda context: True
    patience: int | None = None  # ends after this number of rejected choices in a row
    # Every choice that is kept is a step by itself, and the next starts from it. Rejected ones are
    # not reported; the number of models evaluated is limited by the options.
    cumulative: bool = False
    # The errors that the step removes at most.
    limit: Callable[[State, Context], ImageErrors] | None = None


def minmax_ranges(state: State, context: Context, _=None) -> State:
    """Ranges from the smallest to the largest value."""
    histograms = state.histograms or cached_histograms(
        context.cache, state.float32_model, context.images
    )
    ranges = estimate_ranges(state.float32_model, histograms, "minmax")
    return dataclasses.replace(state, ranges=ranges, histograms=histograms, estimator="minmax")


def unchanged(state: State, context: Context, _=None) -> State:
    """The state as it is."""
    return state


def estimated_ranges(state: State, context: Context, estimator: str) -> State:
    """Ranges by another estimator."""
    ranges = estimate_ranges(state.float32_model, state.histograms, estimator)
    return dataclasses.replace(state, ranges=ranges, estimator=estimator)


def other_estimators(state: State) -> tuple[Choice, ...]:
    """The estimators of least error but the state's, "swish" first."""
    return tuple(
        Choice(name, f": {name}", ESTIMATORS[name].description)
        for name in ("swish", "mse")
        if name != state.estimator
    )


def equalize(state: State, context: Context, strength: float) -> State:
    """Equalized channels of residual streams and products."""
    return _equalized(state, context, strength, ())


def equalize_swishes(state: State, context: Context, tensors: Sequence[str]) -> State:
    """Equalized channels of `tensors`, which are before a swish."""
    return _equalized(state, context, STRENGTHS[0], tensors)


def _equalized(state, context, strength, through_swish):
    model = equalization.equalize(
        state.float32_model,
        state.histograms,
        strength=strength,
        through_swish=through_swish,
        images=context.images[:_CHECK_IMAGES],
    )
    changed = equalization.scaled_tensors(model, through_swish=through_swish)
    changed |= ops.activations(model).keys() - state.histograms.keys()
    histograms = {
        **state.histograms,
        **accumulate_histograms(model, context.images, only=changed),
    }
    return dataclasses.replace(
        state,
        float32_model=model,
        exact_model=model,
        uncompensated_model=model,
        histograms=histograms,
        ranges=estimate_ranges(model, histograms, state.estimator),
    )


def swish_stages(state: State) -> tuple[Choice, ...]:
    """The tensors before swishes without a factor, of the stem, of block 1, ..., front to back."""
    graph = Graph(state.float32_model)
    stages = {}
    for swish in swishes(graph):
        if swish.factor is None:
            name = graph.name(swish.z)
            stage = _STAGE.match(sqnr.group_of(name) or "the rest")[0]
            stages.setdefault(stage, []).append(name)
    return tuple(
        Choice(tuple(names), f", {stage}", f"{len(names)} tensor(s)")
        for stage, names in stages.items()
    )


def round_weights(state: State, context: Context, _=None) -> State:
    """Weights on their int8 grid."""
    model = weight_rounding.round_weights(state.float32_model, context.images[:_ROUNDING_IMAGES])
    return dataclasses.replace(state, float32_model=model, uncompensated_model=model)


def weight_errors(state: State, context: Context) -> ImageErrors:
    """The errors of int8 weights alone, which add to those of int8 activations."""
    plan = make_plan(ops.read_ops(state.float32_model), find_preset("weight_only"))
    return context.objective.errors(quantize(state.float32_model, None, plan))


def correct_biases(state: State, context: Context, _=None) -> State:
    """Biases that restore the float model's channel means."""

    def quantized(model):
        return quantize(
            model, state.ranges, context.plan(dataclasses.replace(state, float32_model=model))
        )

    model = bias_correction.correct_biases(
        state.float32_model, context.images, quantized, state.ranges
    )
    return dataclasses.replace(state, float32_model=model)


def finetune(state: State, context: Context, _=None) -> State:
    """Weights, biases and ranges trained on the float model's outputs."""
    from tflite.quantization import finetuning  # imports TensorFlow

    model, ranges = finetuning.finetune(
        state.float32_model, state.ranges, context.plan(state), context.images, log=context.log
    )
    return dataclasses.replace(state, float32_model=model, ranges=ranges)


def _searches(context):
    return context.options.search_evaluations > 0


_ROUNDING = Step(
    "weight rounding",
    "each weight compensates the rounding error of the previous ones",
    round_weights,
    limit=weight_errors,
)
# fmt: off
STEPS = (  # for int8 activations
    Step("min-max ranges", "smallest and largest value of each tensor, the default of most "
         "converters", minmax_ranges, least_gain=None),
    Step("ranges", "best other range estimator", estimated_ranges, choices=other_estimators),
    Step("equalization", "equal absolute maxima of the channels of residual streams and products",
         equalize, patience=1,
         choices=lambda state: [Choice(s, detail=f"strength {s:g}") for s in STRENGTHS]),
    Step("ranges, equalized", "best other range estimator", estimated_ranges,
         choices=other_estimators, after="equalization"),
    Step("equalization", "the same for channels before a swish, at one multiplication each",
         equalize_swishes, choices=swish_stages, cumulative=True, patience=2, least_gain=0.05,
         enabled=_searches),
    _ROUNDING,
    Step("bias correction", "biases restore the float model's channel means", correct_biases),
    Step("fine-tuning", "block by block, then on the scores; no labels", finetune,
         enabled=lambda context: context.options.finetunes(context.preset)
         and context.measures == MEASURES),
)
WEIGHT_STEPS = (  # for int8 weights with other activations
    Step("nearest rounding", "weights rounded to the nearest, the default of most converters",
         unchanged, least_gain=None),
    _ROUNDING,
)
# fmt: on
