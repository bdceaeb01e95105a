"""Mixed precision: an accuracy budget, and the ops that stay in float32 to meet it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keras_effnet.litert import ops
from tflite.evaluation import sqnr
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.objective import Objective, agreement_and_drop
from tflite.quantization.plan import QuantPlan
from tflite.quantization.state import State

_REGION_IMAGES = 64  # that every region is evaluated on
_MIN_COST = 0.01  # of the network's operations: smaller regions cost as much in the ranking


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
    cost: float  # share of the network's multiply-adds and elementwise operations
    reason: str = ""


def within_budget(
    budget: Budget,
    state: State,
    plan: QuantPlan,
    *,
    held_out: Objective,
    objective: Objective,
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
        log: called with a line of text per evaluated region or model.

    Raises:
        BudgetError: the budget is not met with all regions in float32.
    """
    results = []  # (agreement, drop) of every evaluated model

    def is_met(model):
        predictions = held_out.predictions_of(model)
        agreement, drop = agreement_and_drop(held_out.predictions, predictions, held_out.labels)
        results.append((agreement, drop))
        log(f"  {_result(agreement, drop)} on {len(predictions):,} held-out images")
        return budget.met(agreement, drop)

    if is_met(state.quantized(plan)):
        return plan, ()
    candidates = candidate_regions(state.float32_model, plan)
    ranked = rank_regions(measure_regions(state, plan, candidates, objective, log))
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
    log: Callable[[str], None] = lambda line: None,
) -> list[Float32Region]:
    """The regions with their divergence and cost.

    The divergence of a region is measured with all other regions in float32. With all others in
    int8 it is a small difference of two large numbers, smaller than other rounding effects. The
    cost is counted, not timed: the choice must not depend on what else the machine does.

    Args:
        state: the result of the quantization pipeline.
        plan: the plan without float32 regions.
        candidates: {name: outputs}; regions may overlap.
        objective: a few of its images are used.
        log: called with a line of text per region.
    """
    objective = objective.first(_REGION_IMAGES)
    all_outputs = {output for outputs in candidates.values() for output in outputs}
    shares, regions = operation_shares(state.float32_model), []
    for name, outputs in candidates.items():
        others = plan.with_floats(all_outputs - set(outputs), name)
        kl = objective(state.quantized_with_regions(others))[0]
        cost = sum(shares[output] for output in outputs)
        reason = f"KL divergence {kl:.5f} with only this in int8; {cost:.1%} of the operations"
        regions.append(Float32Region(name, outputs, kl, cost, reason))
        log(f"  {name}: {reason}")
    return regions


def operation_shares(float32_model: bytes) -> dict[str, float]:
    """{output: share of the network's operations that its op has}: multiply-adds of a layer with
    weights, output values of any other op.
    """
    graph = Graph(float32_model)
    counts = {}
    for op in graph.operations:
        count = math.prod(graph.shape(op.output))
        if op.name in LINEAR:
            kernel = graph.shape(op.inputs[1])
            count *= math.prod(kernel[1:3] if op.name == "DEPTHWISE_CONV_2D" else kernel[1:])
        counts[graph.name(op.output)] = count
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def rank_regions(regions: Sequence[Float32Region]) -> list[Float32Region]:
    """The regions by divergence per cost, the highest first.

    The divergence of a region counts only for the share of its ops that earlier regions do not
    contain; a region without such ops is left out.
    """

    def benefit(region):
        remaining = len(set(region.outputs) - covered) / len(region.outputs)
        return remaining * region.kl_divergence / max(region.cost, _MIN_COST)

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
