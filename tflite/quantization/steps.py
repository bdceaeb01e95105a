"""Steps of post-training quantization: each proposes a changed state. ``STEPS`` has their order."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import ops
from tflite.evaluation import sqnr
from tflite.flatbuffer.graph import Graph, swishes
from tflite.presets import Preset, find_preset
from tflite.quantization import bias_correction, equalization, range_search, weight_rounding
from tflite.quantization.calibration import (
    CalibrationImages,
    accumulate_histograms,
    cached_histograms,
)
from tflite.quantization.calibration_cache import NO_CACHE, CalibrationCache, default_folder
from tflite.quantization.objective import MEASURES, Objective, held_out
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.quantization.range_estimation import ESTIMATORS, estimate_ranges
from tflite.quantization.state import State

STRENGTHS = (0.5, 1.0)  # of equalization
_OBJECTIVE_IMAGES = 256  # held-out images, at most, that a step is evaluated on
_ROUNDING_IMAGES = 64
_SEARCH_IMAGES = 128
_CHECK_IMAGES = 4  # that function-preserving transforms are checked on
_SWISH_TOLERANCE = 1.25  # times the smallest divergence at which the "swish" estimator is preferred
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
    measures: tuple[str, str] = MEASURES  # what ``evaluate`` returns
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

    def evaluate(self, state: State) -> tuple[float, float]:
        """(KL divergence in nats, prediction agreement) of a state's model, quantized."""
        return self.objective(state.quantized(self.plan(state)))


def make_context(
    float32_model: bytes,
    preset: Preset,
    calibration: CalibrationImages,
    options: ConversionOptions,
    log: Callable[[str], None] = lambda line: None,
) -> Context:
    """The :class:`Context`: images to learn from, and an objective on held-out images.

    Only the weights are quantized while steps for other than int8 activations are evaluated.
    """
    learning, held = held_out(len(calibration))
    held = held[:_OBJECTIVE_IMAGES]
    labels = None if calibration.labels is None else calibration.labels[held]
    cache = CalibrationCache(default_folder(), log=log) if options.cache else NO_CACHE
    objective = Objective(
        float32_model, calibration.images[held], labels, metric=options.metric, cache=cache
    )
    return Context(
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


@dataclass(frozen=True)
class Candidate:
    """What a step proposes."""

    state: State
    score: tuple[float, float] | None = None  # as ``Context.evaluate``, if known already
    variant: str = ""  # for the step's name
    detail: str = ""  # for its description


@dataclass(frozen=True)
class Step:
    """One row of the pipeline."""

    name: str
    description: str
    propose: Callable[..., Candidate]  # (state, context[, tensors])
    threshold: float | None = 0.99  # kept below this share of the divergence; None: always kept
    after: str = ""  # only if the step of that name was kept
    enabled: Callable[[Context], bool] = lambda context: True
    # {name: tensors}: a trial for each, in this order, until the time limit; rejected ones are not
    # reported
    trials: Callable[[State], Mapping[str, Sequence[str]]] | None = None


def minmax_ranges(state: State, context: Context) -> Candidate:
    """Ranges from the smallest to the largest value."""
    histograms = cached_histograms(context.cache, state.float32_model, context.images)
    ranges = estimate_ranges(state.float32_model, histograms, "minmax")
    return Candidate(
        dataclasses.replace(state, ranges=ranges, histograms=histograms, estimator="minmax")
    )


def unchanged(state: State, context: Context) -> Candidate:
    """The state as it is."""
    return Candidate(state)


def best_estimator(state: State, context: Context) -> Candidate:
    """Ranges by the best of the other estimators."""
    states = {
        name: dataclasses.replace(
            state,
            ranges=estimate_ranges(state.float32_model, state.histograms, name),
            estimator=name,
        )
        for name in ESTIMATORS
        if name != state.estimator
    }
    scores = {name: context.evaluate(each) for name, each in states.items()}
    name = preferred_estimator({name: kl for name, (kl, _) in scores.items()})
    return Candidate(states[name], scores[name], f": {name}", ESTIMATORS[name].description)


def preferred_estimator(divergences: Mapping[str, float]) -> str:
    """The estimator with the smallest divergence; "swish" if it is within 25 % of that.

    What "swish" clips, bias correction restores.

    >>> preferred_estimator({"mse": 0.10, "swish": 0.12})
    'swish'
    """
    best = min(divergences, key=divergences.get)
    if divergences.get("swish", math.inf) < _SWISH_TOLERANCE * divergences[best]:
        return "swish"
    return best


def equalize(state: State, context: Context, tensors: Sequence[str] = ()) -> Candidate:
    """Equalized channels, at the best of the strengths; through the swishes of `tensors`."""
    candidates = [
        _equalized(state, context, strength, tensors)
        for strength in (STRENGTHS[:1] if tensors else STRENGTHS)
    ]
    return min(candidates, key=lambda candidate: candidate.score[0])


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
    state = dataclasses.replace(
        state,
        float32_model=model,
        exact_model=model,
        uncompensated_model=model,
        histograms=histograms,
        ranges=estimate_ranges(model, histograms, state.estimator),
    )
    count = f"{len(through_swish)} tensor(s), " if through_swish else ""
    return Candidate(state, context.evaluate(state), detail=f"{count}strength {strength:g}")


def swish_stages(state: State) -> dict[str, tuple[str, ...]]:
    """{"stem": tensors before its swishes without a factor, "block1": ...}, front to back."""
    graph = Graph(state.float32_model)
    stages = {}
    for swish in swishes(graph):
        if swish.factor is None:
            name = graph.name(swish.z)
            stage = _STAGE.match(sqnr.group_of(name) or "the rest")[0]
            stages.setdefault(stage, []).append(name)
    return {stage: tuple(names) for stage, names in stages.items()}


def round_weights(state: State, context: Context) -> Candidate:
    """Weights on their int8 grid."""
    model = weight_rounding.round_weights(state.float32_model, context.images[:_ROUNDING_IMAGES])
    return Candidate(dataclasses.replace(state, float32_model=model, uncompensated_model=model))


def correct_biases(state: State, context: Context) -> Candidate:
    """Biases that restore the float model's channel means."""

    def quantized(model):
        return quantize(
            model, state.ranges, context.plan(dataclasses.replace(state, float32_model=model))
        )

    model = bias_correction.correct_biases(state.float32_model, context.images, quantized)
    return Candidate(dataclasses.replace(state, float32_model=model))


def finetune(state: State, context: Context) -> Candidate:
    """Weights, biases and ranges trained on the float model's outputs."""
    from tflite.quantization import finetuning  # imports TensorFlow

    model, ranges = finetuning.finetune(
        state.float32_model, state.ranges, context.plan(state), context.images, log=context.log
    )
    return Candidate(dataclasses.replace(state, float32_model=model, ranges=ranges))


def search_ranges(state: State, context: Context) -> Candidate:
    """Ranges moved one by one, evaluated end to end."""
    ranges, tried = range_search.search_ranges(
        state.float32_model,
        state.ranges,
        context.plan(state),
        Objective(context.float32_model, context.images[:_SEARCH_IMAGES]),
        seconds=context.options.search_seconds,
    )
    return Candidate(dataclasses.replace(state, ranges=ranges), detail=f"{tried} tensors tried")


def _searches(context):
    return context.options.search_seconds > 0


_ROUNDING = Step(
    "weight rounding",
    "each weight compensates the rounding error of the previous ones",
    round_weights,
)
# fmt: off
STEPS = (  # for int8 activations
    Step("min-max ranges", "smallest and largest value of each tensor, the default of most "
         "converters", minmax_ranges, threshold=None),
    Step("ranges", "best other range estimator", best_estimator),
    Step("equalization", "equal absolute maxima of the channels of residual streams and products",
         equalize),
    Step("ranges, equalized", "best other range estimator", best_estimator, after="equalization"),
    Step("equalization", "the same for channels before a swish, at one multiplication each",
         equalize, threshold=0.9, trials=swish_stages, enabled=_searches),
    _ROUNDING,
    Step("bias correction", "biases restore the float model's channel means", correct_biases),
    Step("fine-tuning", "block by block, then on the scores; no labels", finetune,
         enabled=lambda context: context.options.finetunes(context.preset)
         and context.objective.model.is_classifier),
    Step("range search", "moves the ranges of the tensors with the lowest SQNR", search_ranges,
         enabled=_searches),
)
WEIGHT_STEPS = (  # for int8 weights with other activations
    Step("nearest rounding", "weights rounded to the nearest, the default of most converters",
         unchanged, threshold=None),
    _ROUNDING,
)
# fmt: on
