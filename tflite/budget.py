"""What a converted model may lose, and the float islands that keep it within that."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from tflite import graph, search
from tflite.quantize import quantize

_LOOKS = 3  # times a search's seconds, since a network has some twenty islands


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
        seconds: a third of what the look at all islands may take.

    Raises:
        BudgetError: nothing found meets it.
    """
    count = len(everything.images)
    _, unseen = search.held_out(count)  # by ranges and biases, which know the others
    best = None  # (agreement, drop) of all files looked at

    def enough(product, spare):
        nonlocal best
        _, top = everything.look(product)
        found = losses(top, np.arange(count))
        best = found if best is None else max(best, found, key=lambda f: (f[0], -(f[1] or 0)))
        for part in (np.arange(count), unseen) if spare else (np.arange(count),):
            agreement, drop = losses(top, part)
            share = budget.min_agreement or 1.0
            error = math.sqrt(share * (1 - share) / len(part))
            if budget.missed(agreement - spare * error, drop):
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

    def make(trial):
        return quantize(state.content, state.ranges, trial)

    if enough(make(plan), 1):
        return plan, ()
    ranked = search.ranked_islands(
        plan, search.islands(state.content, plan), make, judge, seconds=_LOOKS * seconds
    )
    # Islands are chosen by these images: a standard error more than asked, so that other images
    # have it, too; where that is out of reach, with nothing to spare.
    for spare in (1, 0):
        found = search.fewest_islands(plan, ranked, make, functools.partial(enough, spare=spare))
        if found is not None:
            return found
    drop = "" if best[1] is None else f", {best[1]:.2f} points of top-1 lost"
    raise BudgetError(
        f"no choice of float islands gives {budget} on {count} calibration images; the best found: "
        f"{best[0]:.2%} agreement{drop}. Lower the budget, give more images, add fine-tuning, or "
        "take preset weight_only or float16"
    )
