"""Points of a search space under limits of parameters and multiply-adds. No TensorFlow.

Filters and strides of a stage-factorized space are fixed, so both costs of a point are sums over
its stages. The points of compound scaling are few: all are counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Union

from keras_effnet.compound_space import CompoundSpace, size_in_trial
from keras_effnet.model_cost import cost
from keras_effnet.search_space import SearchSpace

Space = Union[SearchSpace, CompoundSpace]
Stages = tuple[tuple[str, int, int, int], ...]  # (op, kernel size, expand ratio, repeats), ...
Coefficients = tuple[float, float, float]  # alpha, beta, gamma
Choices = Union[Stages, Coefficients]
_DRAWS = 200  # until one is not in an earlier trial

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
            cheapest = [_sum(self._fixed, pair) for pair in self._cheapest[0]]
            raise _no_point(space, self._limits, cheapest, image_size, classes)

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

    def draw_new(self, seed: str, earlier: Collection[Stages]) -> Stages:
        """A point under the limits, not in `earlier` unless hundreds of draws give no other."""
        for attempt in range(_DRAWS):
            stages = self.draw(f"{seed}/{attempt}")
            if stages not in earlier:
                break
        return stages

    def base_parameters(self) -> int:
        """The parameters of the base network."""
        return self.cost(self.space.stages_of(self.space.base)).parameters

    def count(self) -> None:
        """The number of points under the limits: not known."""

    def _fits(self, pair, following):
        """Whether `pair` and some choices of the stages from `following` on are allowed."""
        return any(
            pair[0] + p <= self._limits[0] and pair[1] + f <= self._limits[1]
            for p, f in self._cheapest[following]
        )

    def _difference(self, stages):
        pair = self._pair(stages)
        return pair[0] - self._fixed[0], pair[1] - self._fixed[1]

    def _pair(self, stages):
        total = cost(self.space.point(stages), image_size=self._size, classes=self._classes)
        return total.parameters, total.macs


class LimitedCompoundSpace:
    """A search space of compound scaling, and which of its points are under the limits.

    Takes the arguments of :class:`LimitedSpace`; `image_size` is that of the base network. Raises
    ``ValueError`` if no point is under the limits.
    """

    def __init__(
        self,
        space: CompoundSpace,
        *,
        image_size: int,
        classes: int,
        max_parameters: int = 0,
        max_flops: int = 0,
    ):
        self.space = space
        self._base = cost(space.base, image_size=image_size, classes=classes).parameters
        limits = (max_parameters or math.inf, max_flops or math.inf)
        every = {}
        for point in space.points():
            variant = space.point(point)
            size = size_in_trial(image_size, space.base, variant)
            total = cost(variant, image_size=size, classes=classes)
            every[point] = PointCost(total.parameters, total.macs)
        self._costs = {
            point: c
            for point, c in every.items()
            if c.parameters <= limits[0] and c.flops <= limits[1]
        }
        if not self._costs:
            cheapest = _not_dominated((c.parameters, c.flops) for c in every.values())
            raise _no_point(space, limits, cheapest, image_size, classes)

    def cost(self, coefficients: Coefficients) -> PointCost:
        """The cost of a point that is allowed."""
        return self._costs[coefficients]

    def allows(self, coefficients: Coefficients) -> bool:
        """Whether a point is one of the space, and under the limits."""
        return coefficients in self._costs

    def draw_new(self, seed: str, earlier: Collection[Coefficients]) -> Coefficients:
        """A point under the limits, not in `earlier` unless all are."""
        new = [point for point in self._costs if point not in earlier]
        return random.Random(seed).choice(new or list(self._costs))

    def base_parameters(self) -> int:
        """The parameters of the base network."""
        return self._base

    def count(self) -> int:
        """The number of points under the limits."""
        return len(self._costs)


def limit_space(space: Space, **arguments: int) -> LimitedSpace | LimitedCompoundSpace:
    """A search space of either kind with the arguments of :class:`LimitedSpace`."""
    kind = LimitedCompoundSpace if isinstance(space, CompoundSpace) else LimitedSpace
    return kind(space, **arguments)


def _no_point(space, limits, cheapest, image_size, classes):
    """The error for limits that are under the `cheapest` (parameters, multiply-adds)."""
    limited = [i for i, limit in enumerate(limits) if limit < math.inf]
    most = " and ".join(f"{limits[i]:,} {_NAMES[i]}" for i in limited)
    least = " and ".join(f"{min(pair[i] for pair in cheapest):,} {_NAMES[i]}" for i in limited)
    if len(limited) == 1 or len(cheapest) == 1:
        found = f"the smallest has {least}"
    else:
        found = f"the smallest have {least}, not both in one point"
    return ValueError(
        f"the space {space.name} has no point with at most {most}, at {image_size} px and "
        f"{classes} classes: {found}"
    )


def _sum(a, b):
    return a[0] + b[0], a[1] + b[1]


def _not_dominated(pairs):
    kept = []
    for parameters, flops in sorted(pairs):
        if not kept or flops < kept[-1][1]:
            kept.append((parameters, flops))
    return kept
