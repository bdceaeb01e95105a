"""The way from a float network to int8 that keeps its answers: one remedy after the other, each
measured on images that it has not seen, and kept only where it helps.
"""

import dataclasses
import re
import time
from dataclasses import dataclass, field

from tflite import litert
from tflite.evaluation import sqnr
from tflite.flatbuffer import ops
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import (
    bias_correction,
    equalization,
    finetuning,
    range_estimation,
    range_search,
    weight_rounding,
)
from tflite.quantization.calibration import collect_histograms

STRENGTHS = (0.5, 1.0)  # of equalization
_JUDGED = 256  # images, at most, that a remedy is judged by
_ROUNDING_IMAGES = 64  # that weights are rounded by
_SEARCH_IMAGES = 128  # that ranges are searched by
_STAGE = re.compile(r"block\d+|.+")
_NEAR = 1.25  # times the least divergence
_HELPS = 0.99  # of the divergence before: what is above is noise
_HELPS_AT_A_PRICE = 0.9  # what costs time has to give more


@dataclass(frozen=True)
class QuantizationStep:
    """One step, and the file's distance from the float network after it, on held-out images."""

    name: str
    what: str
    kl: float  # nats
    agreement: float  # share of the images with the same answer
    seconds: float
    kept: bool = True


@dataclass
class State:
    """What the remedies work on."""

    content: bytes  # the float .tflite
    ranges: "dict | None"  # None where weights alone are quantized
    rule: str = "minmax"
    rows: "list[QuantizationStep]" = field(default_factory=list)
    kl: float = float("inf")
    exact: bytes = b""  # the content before what changes the float network's own answers
    plain: bytes = b""  # and before what makes up for int8 activations
    observed: dict = field(
        default_factory=dict
    )  # what ``calibration.collect_histograms`` saw of it

    def content_for(self, plan):
        """The content where a plan leaves more in float than it had: those layers do not make up
        for errors of int8 activations that are not made.
        """
        floats = {op.output for op in plan.ops if op.precision == "float32"}
        network, plain = Graph(self.content), Graph(self.plain)
        for op, before in zip(network.operations, plain.operations):
            if op.name in LINEAR and network.name(op.output) in floats:
                for tensor, source in zip(op.inputs[1:], before.inputs[1:]):
                    if source >= 0 and plain.is_constant(source):
                        network.set_constant(tensor, plain.constant(source))
        return network.content()


def apply_to_weights(content, images, *, say=lambda line: None):
    """:class:`State` of a float .tflite whose weights alone will be int8: rounded together, where
    that helps. Arguments as ``apply``.
    """
    learn, held = range_search.held_out(len(images))
    judge = range_search.Objective(content, images[held[:_JUDGED]])

    def make(content, ranges, rule):
        return litert.float_activations(content, "int8")

    state = State(content, None, exact=content)
    start = time.monotonic()
    what = "of the weights, as other converters have it"
    _try(state, judge, make, "nearest codes", what, start)
    _rounded(state, judge, make, images[learn], say)
    return state


def apply(content, images, make_plan, quantize, *, tune=False, seconds=10, say=lambda line: None):
    """(:class:`State`, :class:`~tflite.quantization.range_search.Objective`) of a float .tflite on calibration images.

    Args:
        content: bytes of the float .tflite, prepared.
        images: uint8 images in an order of their own (``calibrate.in_order``).
        make_plan: function from a float .tflite and a range rule to its QuantPlan.
        quantize: function (content, ranges, plan) -> bytes.
        tune: whether to fine-tune, which takes TensorFlow and minutes.
        seconds: of the search for ranges.
        say: called with a line of text before every step.
    """
    learn, held = range_search.held_out(len(images))
    judge = range_search.Objective(content, images[held[:_JUDGED]])
    images = images[learn]

    def make(content, found, rule):
        return quantize(content, found, make_plan(content, rule))

    say(f"Measuring the values of every tensor on {len(images):,} images")
    start = time.monotonic()
    observed = collect_histograms(content, images, min_images=1)
    state = State(content, range_estimation.choose(content, observed, "minmax"), observed=observed)
    _try(state, judge, make, "min-max ranges", "as other converters have it", start)

    say("Choosing ranges")
    _choose_ranges(state, judge, make, "ranges")

    say("Equalizing channels")
    _equalized(state, judge, make, images, seconds)

    state.exact = state.content
    _rounded(state, judge, make, images, say)
    state.plain = state.content

    say("Correcting biases")
    start = time.monotonic()
    corrected = bias_correction.correct_biases(
        state.content, images, lambda c: make(c, state.ranges, state.rule)
    )
    what = "channel means as in float"
    _try(state, judge, make, "bias correction", what, start, content=corrected)

    if tune:
        say("Fine-tuning against the float network")
        start = time.monotonic()
        tuned, found = finetuning.finetune(
            state.content, state.ranges, make_plan(state.content, state.rule), images, progress=say
        )
        what = "block by block, then the scores; no labels"
        _try(state, judge, make, "fine-tuning", what, start, content=tuned, ranges=found)

    if seconds:
        say("Searching ranges end to end")
        start = time.monotonic()
        seen = range_search.Objective(content, images[:_SEARCH_IMAGES])
        found, tried = range_search.search_ranges(
            state.content,
            state.ranges,
            lambda r: make(state.content, r, state.rule),
            seen,
            seconds=seconds,
        )
        what = f"the {tried} noisiest tensors, by the scores' divergence"
        _try(state, judge, make, "range search", what, start, ranges=found)
    return state, judge


def _rounded(state, judge, make, images, say):
    say("Rounding weights together")
    start = time.monotonic()
    rounded = weight_rounding.round_weights(state.content, images[:_ROUNDING_IMAGES])
    what = "each makes up for those before it, by what goes together in the layer's inputs"
    _try(state, judge, make, "weight rounding", what, start, content=rounded)


def _choose_ranges(state, judge, make, name):
    """Tries the other rules for ranges."""
    start = time.monotonic()
    others = [rule for rule in range_estimation.RULES if rule != state.rule]
    found = {rule: range_estimation.choose(state.content, state.observed, rule) for rule in others}
    scores = {rule: judge(make(state.content, found[rule], rule)) for rule in others}
    rule = min(scores, key=lambda rule: scores[rule][0])
    if "swish" in scores and scores["swish"][0] < _NEAR * scores[rule][0]:
        rule = "swish"  # what it clips, the correction of biases gives back
    change = {"ranges": found[rule], "rule": rule}
    _settle(state, scores[rule], f"{name}: {rule}", range_estimation.RULES[rule], start, change)


def _equalized(state, judge, make, images, seconds):
    """Tries equalization where it is free, then stage by stage through the swishes, front to back,
    for so many seconds.
    """
    what = "channels of residual streams and products share their reach"
    _try_equalize(state, judge, make, images, "equalization", what, (), _HELPS)
    if state.rows[-1].kept:  # other ranges may be best now
        _choose_ranges(state, judge, make, "ranges, equalized")
    until = time.monotonic() + seconds
    tried = []
    for stage, names in _stages(Graph(state.content)).items():
        if time.monotonic() > until:
            break
        tried.append(stage)
        many = "one tensor" if len(names) == 1 else f"{len(names)} tensors"
        what = f"of {many} before a swish, a multiplication each"
        way = (f"equalization, {stage}", what, names, _HELPS_AT_A_PRICE)
        _try_equalize(state, judge, make, images, *way)
    if tried:
        seen = [row for row in state.rows if not row.kept and row.name.split(", ")[-1] in tried]
        state.rows = [row for row in state.rows if row not in seen]


def _stages(network):
    """{"stem": tensors before its swishes without a factor yet, "block1": ...}, front to back."""
    found = {}
    for swish in swishes(network):
        if swish.factor is None:
            name = network.name(swish.z)
            stage = _STAGE.match(sqnr.group_of(name) or "the rest")[0]
            found.setdefault(stage, []).append(name)
    return {stage: tuple(names) for stage, names in found.items()}


def _try_equalize(state, judge, make, images, name, what, through, enough):
    """Tries it at the strengths that there are."""
    start, trials = time.monotonic(), []
    for strength in STRENGTHS[:1] if through else STRENGTHS:
        content = equalization.equalize(
            state.content,
            state.observed,
            strength=strength,
            through_swish=through,
            images=images[:4],
        )
        only = equalization.scaled(content, through_swish=through)
        only |= ops.activations(content).keys() - state.observed.keys()
        seen = collect_histograms(content, images, only=only, min_images=1)
        seen = {**state.observed, **seen}
        found = range_estimation.choose(content, seen, state.rule)
        score = judge(make(content, found, state.rule))
        change = {"content": content, "observed": seen, "ranges": found}
        trials.append((score, f"{what} (strength {strength:g})", change))
    score, what, change = min(trials, key=lambda trial: trial[0][0])
    _settle(state, score, name, what, start, change, enough)


def _try(state, judge, make, name, what, start, **change):
    """Keeps a change if it helps."""
    changed = dataclasses.replace(state, **change)
    score = judge(make(changed.content, changed.ranges, changed.rule))
    _settle(state, score, name, what, start, change)


def _settle(state, score, name, what, start, change, enough=_HELPS):
    """Keeps a change if it helps, and notes what came of it."""
    kl, agreement = score
    kept = kl < enough * state.kl
    if kept:
        for field_name, value in {**change, "kl": kl}.items():
            setattr(state, field_name, value)
    state.rows.append(QuantizationStep(name, what, kl, agreement, time.monotonic() - start, kept))
