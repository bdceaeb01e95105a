"""The way from a float network to int8 that keeps its answers: one remedy after the other, each
measured on images that it has not seen, and kept only where it helps.
"""

import re
import time
from dataclasses import dataclass, field

from tflite import blocks, correct, finetune, litert, prepare, ranges, rounding, search
from tflite.calibrate import observe
from tflite.network import Network, swishes

STRENGTHS = (0.5, 1.0)  # of equalization
_TRIAL_IMAGES = 64  # that a change is tried with
_ROUNDING_IMAGES = 64  # that weights are rounded by
_SEARCH_IMAGES = 128  # that ranges are searched by
_STAGE_IMAGES = 48  # and a stage's swishes
_STAGE = re.compile(r"block\d+|.+")
_NEAR = 1.25  # times the least divergence
_HELPS = 0.99  # of the divergence before: what is above is noise
_HELPS_AT_A_PRICE = 0.9  # what costs time has to give more


@dataclass(frozen=True)
class Remedy:
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
    rows: "list[Remedy]" = field(default_factory=list)
    kl: float = float("inf")
    exact: bytes = b""  # the content before what changes the float network's own answers


def apply_to_weights(content, images, *, say=lambda line: None):
    """:class:`State` of a float .tflite whose weights alone will be int8: rounded together, where
    that helps. Arguments as ``apply``.
    """
    learn, held = search.held_out(len(images))
    judge = search.Judge(content, images[held])

    def make(content, ranges, rule):
        return litert.float_activations(content, "int8")

    state = State(content, None, exact=content)
    start = time.monotonic()
    _note(state, judge, make, "nearest codes", "of the weights, as other converters have it", start)
    _rounded(state, judge, make, images[learn], say)
    return state


def apply(content, images, make_plan, quantize, *, tune=False, seconds=10, say=lambda line: None):
    """(:class:`State`, :class:`~tflite.search.Judge`) of a float .tflite on calibration images.

    Args:
        content: bytes of the float .tflite, prepared.
        images: uint8 images in an order of their own (``calibrate.in_order``).
        make_plan: function from a float .tflite and a range rule to its QuantPlan.
        quantize: function (content, ranges, plan) -> bytes.
        tune: whether to fine-tune, which takes TensorFlow and minutes.
        seconds: of the search for ranges.
        say: called with a line of text before every step.
    """
    learn, held = search.held_out(len(images))
    judge = search.Judge(content, images[held])
    images = images[learn]

    def make(content, found, rule):
        return quantize(content, found, make_plan(content, rule))

    say(f"Measuring the values of every tensor on {len(images):,} images")
    start = time.monotonic()
    observed = observe(content, images, min_images=1)
    state = State(content, ranges.choose(content, observed, "minmax"))
    _note(state, judge, make, "min-max ranges", "as other converters have it", start)

    say("Choosing ranges")
    start = time.monotonic()
    trials = {rule: ranges.choose(content, observed, rule) for rule in ranges.RULES}
    scores = {rule: judge(make(content, found, rule))[0] for rule, found in trials.items()}
    rule = min(scores, key=scores.get)
    if scores["swish"] < _NEAR * scores[rule]:
        rule = "swish"  # what it clips, the correction of biases gives back
    _try(
        state,
        judge,
        make,
        f"ranges: {rule}",
        ranges.RULES[rule],
        start,
        content,
        trials[rule],
        rule,
    )

    say("Equalizing channels")
    _equalized(state, judge, make, images, observed, seconds)

    state.exact = state.content
    _rounded(state, judge, make, images, say)

    say("Correcting biases")
    start = time.monotonic()
    corrected = correct.correct_biases(
        state.content, images, lambda c: make(c, state.ranges, state.rule)
    )
    what = "channel means as in float"
    _try(state, judge, make, "bias correction", what, start, corrected, state.ranges, state.rule)

    if tune:
        say("Fine-tuning against the float network")
        start = time.monotonic()
        tuned, found = finetune.finetune(
            state.content, state.ranges, make_plan(state.content, state.rule), images, progress=say
        )
        what = "block by block, then the scores; no labels"
        _try(state, judge, make, "fine-tuning", what, start, tuned, found, state.rule)

    if seconds:
        say("Searching ranges end to end")
        start = time.monotonic()
        seen = search.Judge(content, images[:_SEARCH_IMAGES])
        found, tried = search.search_ranges(
            state.content,
            state.ranges,
            lambda r: make(state.content, r, state.rule),
            seen,
            seconds=seconds,
        )
        what = f"the {tried} noisiest tensors, by the scores' divergence"
        _try(state, judge, make, "range search", what, start, state.content, found, state.rule)
    return state, judge


def _rounded(state, judge, make, images, say):
    say("Rounding weights together")
    start = time.monotonic()
    rounded = rounding.round_weights(state.content, images[:_ROUNDING_IMAGES])
    what = "each makes up for those before it, by what goes together in the layer's inputs"
    _try(state, judge, make, "weight rounding", what, start, rounded, state.ranges, state.rule)


def _equalized(state, judge, make, images, observed, seconds):
    """Tries equalization where it is free, then stage by stage through the swishes, front to back,
    for so many seconds.
    """
    what = "channels of residual streams and products share their reach"
    _try_equalize(state, judge, make, images, observed, "equalization", what, (), _HELPS)
    until = time.monotonic() + seconds
    tried = []
    for stage, names in _stages(Network(state.content)).items():
        if time.monotonic() > until:
            break
        tried.append(stage)
        start = time.monotonic()
        seen = observe(state.content, images[:_STAGE_IMAGES], min_images=1)
        many = "one tensor" if len(names) == 1 else f"{len(names)} tensors"
        what = f"of {many} before a swish, a multiplication each"
        way = (f"equalization, {stage}", what, names, _HELPS_AT_A_PRICE)
        _try_equalize(state, judge, make, images, seen, *way, start)
    if tried:
        seen = [row for row in state.rows if not row.kept and row.name.split(", ")[-1] in tried]
        state.rows = [row for row in state.rows if row not in seen]


def _stages(network):
    """{"stem": tensors before its swishes without a factor yet, "block1": ...}, front to back."""
    found = {}
    for swish in swishes(network):
        if swish.factor is None:
            name = network.name(swish.z)
            stage = _STAGE.match(blocks.group_of(name) or "the rest")[0]
            found.setdefault(stage, []).append(name)
    return {stage: tuple(names) for stage, names in found.items()}


def _try_equalize(state, judge, make, images, observed, name, what, through, enough, start=None):
    """Tries it at the strengths that there are, on a few images first."""
    start = time.monotonic() if start is None else start
    few, trials = images[: _STAGE_IMAGES if through else _TRIAL_IMAGES], []
    for strength in STRENGTHS[:1] if through else STRENGTHS:
        changed = prepare.equalize(
            state.content, observed, strength=strength, through_swish=through, images=few[:4]
        )
        seen = observe(changed, few, min_images=1)
        found = ranges.choose(changed, seen, state.rule)
        trials.append((judge(make(changed, found, state.rule)), strength, changed))
    seen, strength, changed = min(trials, key=lambda trial: trial[0][0])
    what = f"{what} (strength {strength:g})"
    if seen[0] >= enough * state.kl:
        _settle(state, seen, name, what, start)
        return
    found = ranges.choose(changed, observe(changed, images, min_images=1), state.rule)
    _try(state, judge, make, name, what, start, changed, found, state.rule, enough)


def _try(state, judge, make, name, what, start, content, found, rule, enough=_HELPS):
    """Keeps the change if it helps, and notes what came of it."""
    seen = judge(make(content, found, rule))
    kept = seen[0] < enough * state.kl
    if kept:
        state.content, state.ranges, state.rule, state.kl = content, found, rule, seen[0]
    _settle(state, seen, name, what, start, kept)


def _settle(state, seen, name, what, start, kept=False):
    state.rows.append(Remedy(name, what, *seen, time.monotonic() - start, kept))


def _note(state, judge, make, name, what, start):
    seen = judge(make(state.content, state.ranges, state.rule))
    state.kl = seen[0]
    _settle(state, seen, name, what, start, kept=True)
