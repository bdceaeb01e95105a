"""What a converted model may lose, and the float islands that keep it within that."""

from dataclasses import dataclass

from tflite.flatbuffer import ops
from tflite.quantization import range_search
from tflite.quantization.quantizer import quantize

_LOOKS = 6  # times a search's seconds, since a network has some twenty islands


class BudgetError(ops.ConversionError):
    """No choice of float islands meets the budget; the message says what the best one reaches."""


@dataclass(frozen=True)
class Budget:
    """What a converted model may lose, on images that nothing was learned from."""

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


def within_budget(budget, unseen, labels, state, plan, judge, seconds, say=lambda line: None):
    """(plan, islands) with as few operations in float32 as the budget takes.

    Args:
        budget: a :class:`Budget`.
        unseen: a :class:`~tflite.quantization.range_search.Objective` on the images that it is to be met on.
        labels: of those images, or None where the budget has no ``max_drop``.
        state: a :class:`~tflite.quantization.pipeline.State`, what is quantized.
        plan: the :class:`~tflite.quantization.quantizer.QuantPlan` to begin with.
        judge: the judge that islands are chosen by.
        seconds: of a search; the look at all islands may take six times that.
        say: called with a line of text for every island that is looked at.

    Raises:
        BudgetError: nothing found meets it.
    """
    best = None  # (agreement, drop) of all files looked at

    def enough(product):
        nonlocal best
        _, top = unseen.look(product)
        agreement, drop = float((top == unseen.top).mean()), None
        if labels is not None:
            right = [int((each == labels).sum()) for each in (unseen.top, top)]
            drop = 100 * (right[0] - right[1]) / len(top)  # of counts: 2 points are not more than 2
        lost = "" if drop is None else f", {drop:.2f} points of top-1 lost"
        say(f"  {agreement:.2%} agreement{lost} on {len(top):,} held-out images")
        if best is None or (agreement, -(drop or 0)) > (best[0], -(best[1] or 0)):
            best = agreement, drop
        return not budget.missed(agreement, drop)

    def make(trial):
        return quantize(state.content_for(trial), state.ranges, trial)

    if enough(quantize(state.content, state.ranges, plan)):
        return plan, ()
    ranked = range_search.ranked_islands(
        plan,
        range_search.islands(state.content, plan),
        make,
        judge,
        seconds=_LOOKS * seconds,
        say=say,
    )
    found = range_search.fewest_islands(plan, ranked, make, enough)
    if found is not None:
        return found
    drop = "" if best[1] is None else f", {best[1]:.2f} points of top-1 lost"
    raise BudgetError(
        f"no choice of float islands gives {budget} on {len(unseen.images):,} held-out images; the "
        f"best found: {best[0]:.2%} agreement{drop}. Lower the budget, give more images, add "
        "fine-tuning, or take preset weight_only or float16"
    )
