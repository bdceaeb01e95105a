"""Points of a search space under limits of parameters and multiply-adds. No TensorFlow.

Filters and strides of a space are fixed, so both costs of a point are sums over its stages.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from keras_effnet.model_cost import cost
from keras_effnet.search_space import SearchSpace

Stages = tuple[tuple[str, int, int, int], ...]  # (op, kernel size, expand ratio, repeats), ...

_NAMES = ("parameters", "multiply-adds")


@dataclass(frozen=True)
class PointCost:
    """Parameters, and multiply-adds of one image."""

    parameters: int
    flops: int


class LimitedSpace:
    """A search space, and which of its points are under the limits.

    Args:
        space: the space.
        image_size: pixels a side, for multiply-adds.
        classes: outputs of the classifier.
        max_parameters: the limit; 0 for none.
        max_flops: the limit of multiply-adds of an image; 0 for none.

    Raises ``ValueError`` if no point is under the limits.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        image_size: int,
        classes: int,
        max_parameters: int = 0,
        max_flops: int = 0,
    ):
        self.space = space
        self._size, self._classes = image_size, classes
        self._limits = (max_parameters or math.inf, max_flops or math.inf)
        first = tuple(next(stage.all()) for stage in space.choices)
        self._fixed = self._pair(first)
        self._added = [  # {choice: what it costs more than the stage's first choice}
            {
                choice: self._difference((*first[:i], choice, *first[i + 1 :]))
                for choice in stage.all()
            }
            for i, stage in enumerate(space.choices)
        ]
        # the cheapest (parameters, multiply-adds) of the stages from each on: none is better in
        # both than another
        self._cheapest = [[(0, 0)]]
        for added in reversed(self._added):
            sums = {(a + p, b + f) for a, b in added.values() for p, f in self._cheapest[0]}
            self._cheapest.insert(0, _not_dominated(sums))
        if not self._fits(self._fixed, 0):
            raise ValueError(
                f"the space {space.name} has no point with at most {self._describe_limits()}, at "
                f"{image_size} px and {classes} classes: {self._describe_least()}"
            )

    def cost(self, stages: Stages) -> PointCost:
        """The cost of a point.

        >>> from keras_effnet.search_space import SPACES
        >>> space = LimitedSpace(SPACES["small"], image_size=32, classes=10)
        >>> space.cost(SPACES["small"].stages_of(SPACES["small"].base)).parameters
        183880
        """
        pair = self._fixed
        for added, stage in zip(self._added, stages):
            pair = _sum(pair, added[tuple(stage)])
        return PointCost(*pair)

    def allows(self, stages: Stages) -> bool:
        """Whether a point is under the limits."""
        point = self.cost(stages)
        return point.parameters <= self._limits[0] and point.flops <= self._limits[1]

    def draw(self, seed: str) -> Stages:
        """A point under the limits; the same for the same seed.

        Stage by stage, each choice that leaves a point under the limits has the same probability.
        """
        generator, pair, stages = random.Random(seed), self._fixed, []
        for i, added in enumerate(self._added):
            fitting = [c for c, more in added.items() if self._fits(_sum(pair, more), i + 1)]
            stages.append(generator.choice(fitting))
            pair = _sum(pair, added[stages[-1]])
        return tuple(stages)

    def _fits(self, pair, following):
        """Whether `pair` and some choices of the stages from `following` on are allowed."""
        return any(
            pair[0] + p <= self._limits[0] and pair[1] + f <= self._limits[1]
            for p, f in self._cheapest[following]
        )

    def _describe_limits(self):
        return " and ".join(
            f"{limit:,} {name}" for limit, name in zip(self._limits, _NAMES) if limit < math.inf
        )

    def _describe_least(self):
        least = [
            f"{min(pair[i] for pair in self._cheapest[0]) + self._fixed[i]:,} {name}"
            for i, name in enumerate(_NAMES)
            if self._limits[i] < math.inf
        ]
        if len(least) == 1 or len(self._cheapest[0]) == 1:
            return f"the smallest has {' and '.join(least)}"
        return f"the smallest have {' and '.join(least)}, not both in one point"

    def _difference(self, stages):
        pair = self._pair(stages)
        return pair[0] - self._fixed[0], pair[1] - self._fixed[1]

    def _pair(self, stages):
        total = cost(self.space.point(stages), image_size=self._size, classes=self._classes)
        return total.parameters, total.macs


def _sum(a, b):
    return a[0] + b[0], a[1] + b[1]


def _not_dominated(pairs):
    kept = []
    for parameters, flops in sorted(pairs):
        if not kept or flops < kept[-1][1]:
            kept.append((parameters, flops))
    return kept
