"""What a converted model may lose, and the float islands that keep it within that."""

import math
from dataclasses import dataclass

import numpy as np

from tflite import graph, search
from tflite.quantize import quantize


class BudgetError(graph.ConversionError):
    """No choice of float islands meets the budget; the message says what the best one reaches."""


@dataclass(frozen=True)
class Budget:
    """What a converted model may lose, on the calibration images."""

    max_drop: "float | None" = None  # percentage points of top-1
    min_agreement: "float | None" = None  # share of images with the float model's answer

    def __post_init__(self):
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise ValueError(f"max_drop {self.max_drop} is no number of points in [0, 100)")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise ValueError(
                f"min_agreement {self.min_agreement} is no share: give one in (0, 1], e.g. 0.97"
            )

    def missed(self, agreement, drop):
        """What of it a file of this agreement and drop (None where there are no labels) misses, as
        words; "" for nothing.
        """
        parts = []
        if self.min_agreement is not None and agreement < self.min_agreement:
            parts.append(f"{agreement:.2%} agreement")
        if self.max_drop is not None and drop is not None and drop > self.max_drop:
            parts.append(f"{drop:.2f} points lost")
        return " and ".join(parts)

    def __str__(self):
        parts = []
        if self.max_drop is not None:
            parts.append(f"at most {self.max_drop:g} points of top-1 lost")
        if self.min_agreement is not None:
            parts.append(f"at least {self.min_agreement:.2%} the float model's answers")
        return " and ".join(parts)


def within_budget(budget, everything, labels, state, plan, judge, seconds):
    """(plan, islands) with as few operations in float32 as the budget takes.

    Args:
        budget: a :class:`Budget`.
        everything: a :class:`~tflite.search.Judge` on the images that it is to be met on.
        labels: of those images, or None where the budget has no ``max_drop``.
        state: a :class:`~tflite.remedies.State`, what is quantized.
        plan: the :class:`~tflite.quantize.QuantPlan` to begin with.
        judge: the judge that islands are chosen by.
        seconds: for the first look at them.

    Raises:
        BudgetError: nothing found meets it.
    """
    share = budget.min_agreement or 1.0
    count = len(everything.images)
    _, unseen = search.held_out(count)  # by ranges and biases, which know the others
    reached = []  # (agreement, drop) of every file looked at, the plan's last

    def enough(product):
        _, top = everything.look(product)
        reached.append(losses(top, np.arange(count)))
        # Islands are chosen by these images: a standard error more than asked, so that other images
        # have it, too.
        for part in (np.arange(count), unseen):
            agreement, drop = losses(top, part)
            if budget.missed(agreement - math.sqrt(share * (1 - share) / len(part)), drop):
                return False
        return True

    def losses(top, part):
        drop = None
        if labels is not None:
            right = [int((each == labels)[part].sum()) for each in (everything.top, top)]
            drop = (
                100 * (right[0] - right[1]) / len(part)
            )  # of counts: 2 points are not more than 2
        return float((top == everything.top)[part].mean()), drop

    start = plan
    plan, islands, met = search.search_islands(
        start,
        search.islands(state.content, plan),
        lambda trial: quantize(state.content, state.ranges, trial),
        judge,
        enough,
        seconds=seconds,
    )
    if met:
        return plan, tuple(islands)
    # with nothing to spare, then: reached[i] is what the first i islands give
    for count, found in enumerate(reached[: len(islands) + 1]):
        if not budget.missed(*found):
            plan = start
            for island in islands[:count]:
                plan = plan.with_floats(island.outputs, f"island: {island.name}")
            return plan, tuple(islands[:count])
    best = max(reached, key=lambda r: (r[0], -(r[1] or 0)))
    drop = "" if best[1] is None else f", {best[1]:.2f} points of top-1 lost"
    raise BudgetError(
        f"no choice of float islands gives {budget} on {len(everything.images)} calibration "
        f"images; the best found: {best[0]:.2%} agreement{drop}, with {len(islands)} islands. "
        "Lower the budget, give more images, add fine-tuning, or take preset weight_only or "
        "float16"
    )
