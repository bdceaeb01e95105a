"""Mixed precision: an accuracy budget, and the ops that stay in float32 to meet it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keras_effnet.litert import ops
from tflite.evaluation import sqnr
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.objective import Objective, agreement_and_drop, latency_ms
from tflite.quantization.plan import QuantPlan
from tflite.quantization.state import State

_RUNS = 20  # minimum number of runs of a latency measurement
_RUNS_MS = 200  # a faster model gets as many runs as take this long
_REGION_IMAGES = 64  # that every region is evaluated on
_SECONDS_FACTOR = 6  # of the time limit of one search, since a network has about twenty regions
_MIN_COST = 0.01  # of the model's latency: cheaper regions cost as much in the ranking


class BudgetError(ops.ConversionError):
    """No choice of float32 regions meets the budget; the message has the best result."""


@dataclass(frozen=True)
class Budget:
    """How much accuracy a converted model may lose on held-out images.

    Raises:
        ValueError: a limit is out of range.
    """

    max_drop: float | None = None  # percentage points of top-1
    min_agreement: float | None = None  # fraction of images with the float model's prediction

    def __post_init__(self):
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise ValueError(f"max_drop must be in [0, 100) percentage points, got {self.max_drop}")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise ValueError(
                f"min_agreement must be in (0, 1], e.g. 0.97, got {self.min_agreement}"
            )

    def __bool__(self):
        return self != Budget()

    def missed(self, agreement: float, drop: float | None) -> str:
        """The limits that a model misses, as text; "" if it meets the budget.

        Args:
            agreement: prediction agreement in [0, 1].
            drop: top-1 drop in percentage points; None without labels.
        """
        parts = []
        if self.min_agreement is not None and agreement < self.min_agreement:
            parts.append(f"{agreement:.2%} agreement")
        if self.max_drop is not None and drop is not None and drop > self.max_drop:
            parts.append(f"{drop:.2f} points lost")
        return " and ".join(parts)

    def met(self, agreement: float, drop: float | None = None) -> bool:
        """Whether a model with this agreement and drop meets the budget."""
        return not self.missed(agreement, drop)

    def __str__(self):
        parts = []
        if self.max_drop is not None:
            parts.append(f"at most {self.max_drop:g} points of top-1 lost")
        if self.min_agreement is not None:
            parts.append(f"at least {self.min_agreement:.2%} prediction agreement")
        return " and ".join(parts)


@dataclass(frozen=True)
class Float32Region:
    """A group of ops that can be left in float32."""

    name: str
    outputs: tuple[str, ...]  # the tensors that the ops write
    kl_divergence: float  # in nats, with only this region in int8
    latency_ms: float  # extra latency of float32, one thread
    reason: str = ""


def within_budget(
    budget: Budget,
    state: State,
    plan: QuantPlan,
    *,
    held_out: Objective,
    objective: Objective,
    seconds: float,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[QuantPlan, tuple[Float32Region, ...]]:
    """(plan, float32 regions) with as few regions as the budget needs.

    Args:
        budget: the accuracy budget.
        state: the result of the quantization pipeline.
        plan: the plan without float32 regions.
        held_out: objective on the images that the budget must be met on, with labels for
            ``max_drop``.
        objective: objective that the regions are ranked with.
        seconds: time limit of one search; evaluating the regions may take six times as long.
        log: called with a line of text per evaluated region or model.

    Raises:
        BudgetError: the budget is not met with all regions in float32.
    """
    results = []  # (agreement, drop) of every evaluated model

    def is_met(model):
        _, predictions = held_out.evaluate(model)
        agreement, drop = agreement_and_drop(held_out.predictions, predictions, held_out.labels)
        results.append((agreement, drop))
        log(f"  {_result(agreement, drop)} on {len(predictions):,} held-out images")
        return budget.met(agreement, drop)

    if is_met(state.quantized(plan)):
        return plan, ()
    candidates = candidate_regions(state.float32_model, plan)
    ranked = rank_regions(
        *measure_regions(state, plan, candidates, objective, _SECONDS_FACTOR * seconds, log)
    )
    count = fewest(
        len(ranked), lambda n: is_met(state.quantized_with_regions(with_regions(plan, ranked[:n])))
    )
    if count is not None:
        return with_regions(plan, ranked[:count]), tuple(ranked[:count])
    raise BudgetError(
        f"no choice of float32 regions meets the budget ({budget}) on {len(held_out.images):,} "
        f"held-out images; best result: {_result(*best_result(results))}. Lower the budget, give "
        "more images, add fine-tuning, or use preset weight_only or float16"
    )


def best_result(results: Sequence[tuple]) -> tuple:
    """The (agreement, drop) with the highest agreement, then the smallest drop."""
    return max(results, key=lambda result: (result[0], -(result[1] or 0)))


def _result(agreement, drop):
    lost = "" if drop is None else f", {drop:.2f} points of top-1 lost"
    return f"{agreement:.2%} agreement{lost}"


def candidate_regions(float32_model: bytes, plan: QuantPlan) -> dict[str, tuple[str, ...]]:
    """{name: output tensors} of the groups of int8 ops that can be float32 together.

    They are each block, all squeeze-excite branches, all residual additions, and the last layer.
    """
    graph = Graph(float32_model)
    int8 = plan.outputs("int8")
    regions = {}
    for op in graph.operations:
        name = graph.name(op.output)
        if name not in int8:
            continue
        group = sqnr.group_of(name) or "the rest"
        regions.setdefault(group, []).append(name)
        if "_se_" in name and "_se_excite" not in name:
            regions.setdefault("squeeze-excite branches", []).append(name)
        if op.name == "ADD":
            regions.setdefault("residual additions", []).append(name)
    last = [op for op in graph.operations if op.name in LINEAR][-1:]
    for op in (op for op in last if graph.name(op.output) in int8):
        regions.setdefault("last layer", []).append(graph.name(op.output))
    return {name: tuple(outputs) for name, outputs in regions.items()}


def measure_regions(
    state: State,
    plan: QuantPlan,
    candidates: Mapping[str, tuple[str, ...]],
    objective: Objective,
    seconds: float,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[list[Float32Region], float]:
    """(regions with divergence and latency, latency in ms of the model without regions).

    The divergence of a region is measured with all other regions in float32. With all others in
    int8 it is a small difference of two large numbers, smaller than other rounding effects.

    Args:
        state: the result of the quantization pipeline.
        plan: the plan without float32 regions.
        candidates: {name: outputs}; regions may overlap.
        objective: a few of its images are used.
        seconds: time limit; regions that are not evaluated in time get a divergence of 0, which
            ranks them last. One is always evaluated.
        log: called with a line of text per region.
    """
    start, objective = state.quantized_with_regions(plan), objective.first(_REGION_IMAGES)
    [base_ms] = latency_ms(start)
    runs = max(_RUNS, int(_RUNS_MS / base_ms))
    all_outputs = {output for outputs in candidates.values() for output in outputs}
    deadline, regions = time.monotonic() + seconds, []
    for name, outputs in candidates.items():
        if regions and time.monotonic() > deadline:
            regions.append(Float32Region(name, outputs, 0.0, 0.0, "not evaluated: out of time"))
            continue
        others = plan.with_floats(all_outputs - set(outputs), name)
        kl = objective(state.quantized_with_regions(others))[0]
        alone = state.quantized_with_regions(plan.with_floats(outputs, name))
        before, after = latency_ms(start, alone, runs=runs)
        cost = max(after - before, 0.0)
        reason = f"KL divergence {kl:.5f} with only this in int8; float32 costs {cost:.2f} ms"
        regions.append(Float32Region(name, outputs, kl, cost, reason))
        log(f"  {name}: {reason}")
    return regions, base_ms


def rank_regions(regions: Sequence[Float32Region], base_ms: float) -> list[Float32Region]:
    """The regions by divergence per latency, the highest first.

    The divergence of a region counts only for the share of its ops that earlier regions do not
    contain; a region without such ops is left out.

    Args:
        regions: as ``measure_regions`` returns them.
        base_ms: latency of the model without regions.
    """

    def benefit(region):
        remaining = len(set(region.outputs) - covered) / len(region.outputs)
        return remaining * region.kl_divergence / max(region.latency_ms, _MIN_COST * base_ms)

    ranked, covered, remaining = [], set(), list(regions)
    while remaining:
        best = max(remaining, key=benefit)
        remaining.remove(best)
        if not set(best.outputs) <= covered:
            ranked.append(best)
            covered.update(best.outputs)
    return ranked


def with_regions(plan: QuantPlan, regions: Sequence[Float32Region]) -> QuantPlan:
    """The plan with these regions in float32."""
    for region in regions:
        plan = plan.with_floats(region.outputs, f"float32 region: {region.name}")
    return plan


def fewest(total: int, is_met: Callable[[int], bool]) -> int | None:
    """The smallest n in 1 .. total for which ``is_met(n)``, by bisection; None if there is none.

    ``is_met`` must not become false again as n grows; ``is_met(total)`` is evaluated first.

    >>> fewest(8, lambda n: n >= 3)
    3
    """
    if not is_met(total):
        return None
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        if is_met(middle):
            high = middle
        else:
            low = middle
    return high
