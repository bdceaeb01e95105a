"""Search spaces of EfficientNetV2 (arXiv 2104.00298, section 3.2), one row each. No Keras.

A space is stage-factorized: for each stage an op, a kernel size, an expand ratio and a number of
layers. Filters, strides, stem and head are those of a base network; there are no choices of
pooling or skip connections. MBConv has squeeze-and-excitation as in the base, Fused-MBConv has
none. A point of a space is a :class:`Variant`: it is built, costed, trained and converted like any
published network.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from keras_effnet.block_strings import format_stages
from keras_effnet.network_plan import plan
from keras_effnet.variants import V2, VARIANTS, Normalization, Stage, Variant

OPS = ("mbconv", "fused")
KERNEL_SIZES = (3, 5)
EXPAND_RATIOS = (1, 4, 6)
# The paper does not state the numbers of layers; these are the base's times these factors, rounded.
_REPEAT_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)
_DIMENSIONS = ("op", "kernel_size", "expand_ratio", "repeats")  # of a stage, in order
_SE_RATIO = 0.25  # of MBConv in every published V2 network


@dataclass(frozen=True)
class StageChoices:
    """What the search may choose for one stage."""

    ops: tuple[str, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    repeats: tuple[int, ...]

    def all(self) -> Iterator[tuple[str, int, int, int]]:
        """All (op, kernel size, expand ratio, repeats) of the stage, in a fixed order."""
        return itertools.product(self.ops, self.kernel_sizes, self.expand_ratios, self.repeats)

    def size(self) -> int:
        """The number of combinations."""
        return len(self.ops) * len(self.kernel_sizes) * len(self.expand_ratios) * len(self.repeats)


@dataclass(frozen=True)
class SearchSpace:
    """A base network, and the choices for each of its stages."""

    name: str
    base: Variant  # with width 1 and depth 1: filters and layers as built
    choices: tuple[StageChoices, ...]

    def size(self) -> int:
        """The number of points.

        >>> SPACES["efficientnetv2-s"].size()
        27993600000
        """
        return math.prod(stage.size() for stage in self.choices)

    def point(self, stages: tuple[tuple[str, int, int, int], ...]) -> Variant:
        """The variant with these (op, kernel size, expand ratio, repeats), one for each stage.

        Raises ``ValueError`` for a choice that the space does not have.
        """
        if len(stages) != len(self.choices):
            raise ValueError(
                f"the space {self.name} has {len(self.choices)} stages, not {len(stages)}"
            )
        for number, (stage, choices) in enumerate(zip(stages, self.choices), start=1):
            if tuple(stage) not in choices.all():
                raise ValueError(
                    f"stage {number} of the space {self.name} cannot be {tuple(stage)}; it has "
                    f"ops {choices.ops}, kernel sizes {choices.kernel_sizes}, expand ratios "
                    f"{choices.expand_ratios}, layers {choices.repeats}"
                )
        variant = replace(
            self.base,
            stages=tuple(
                replace(
                    base,
                    op=op,
                    kernel_size=kernel_size,
                    expand_ratio=expand_ratio,
                    repeats=repeats,
                    se_ratio=(base.se_ratio or _SE_RATIO) if op == "mbconv" else 0.0,
                )
                for base, (op, kernel_size, expand_ratio, repeats) in zip(self.base.stages, stages)
            ),
            top1=None,
        )
        digest = hashlib.sha256(canonical_form(variant).encode()).hexdigest()[:8]
        return replace(variant, name=f"{self.name}-{digest}")

    def stages_of(self, variant: Variant) -> tuple[tuple[str, int, int, int], ...]:
        """The choices that make up a variant. Raises ``ValueError`` if it is not a point."""
        built = unscaled(variant)
        stages = tuple((s.op, s.kernel_size, s.expand_ratio, s.repeats) for s in built.stages)
        point = self.point(stages)
        for what, given, expected in (
            ("blocks", canonical_form(built), canonical_form(point)),
            ("head filters", built.head_filters, point.head_filters),
        ):
            if given != expected:
                raise ValueError(
                    f"{variant.name} is not a point of the space {self.name}: it has the {what} "
                    f"{given}, the space has {expected}"
                )
        return stages

    def dimensions(self) -> dict[str, tuple]:
        """{name: options} of every single choice, in a fixed order.

        >>> list(SPACES["small"].dimensions().items())[:2]
        [('stage1_op', ('mbconv', 'fused')), ('stage1_kernel_size', (3, 5))]
        """
        return {
            f"stage{number}_{name}": options
            for number, c in enumerate(self.choices, start=1)
            for name, options in zip(
                _DIMENSIONS, (c.ops, c.kernel_sizes, c.expand_ratios, c.repeats)
            )
        }

    def to_dimensions(self, stages: tuple[tuple[str, int, int, int], ...]) -> dict[str, object]:
        """{name: what is chosen} of a point, with the names of :meth:`dimensions`."""
        return {
            f"stage{number}_{name}": value
            for number, stage in enumerate(stages, start=1)
            for name, value in zip(_DIMENSIONS, stage)
        }

    def from_dimensions(
        self, values: Mapping[str, object]
    ) -> tuple[tuple[str, int, int, int], ...]:
        """The reverse of :meth:`to_dimensions`."""
        return tuple(
            tuple(values[f"stage{number}_{name}"] for name in _DIMENSIONS)
            for number in range(1, len(self.choices) + 1)
        )

    def network_key(self, stages: tuple[tuple[str, int, int, int], ...]) -> str:
        """A text that is equal for points that are the same network."""
        return canonical_form(self.point(stages))

    def sample(self, seed: int | str) -> Variant:
        """A point drawn uniformly; the same seed gives the same point on every machine.

        >>> SPACES["small"].sample(3).name == SPACES["small"].sample(3).name
        True
        """
        draw = random.Random(f"sample/{self.name}/{seed}")
        return self.point(tuple(draw.choice(list(stage.all())) for stage in self.choices))

    def neighbors(self, variant: Variant) -> list[Variant]:
        """All points that differ from a point in exactly one choice of one stage."""
        stages = self.stages_of(variant)
        return [
            self.point((*stages[:i], other, *stages[i + 1 :]))
            for i, choices in enumerate(self.choices)
            for other in choices.all()
            if sum(a != b for a, b in zip(other, stages[i])) == 1
        ]

    def mutate(self, variant: Variant, seed: int | str) -> Variant:
        """A neighbor drawn uniformly; the same seed gives the same neighbor."""
        draw = random.Random(f"mutate/{self.name}/{canonical_form(variant)}/{seed}")
        return draw.choice(self.neighbors(variant))


def unscaled(variant: Variant) -> Variant:
    """The same network with width 1 and depth 1: filters and layers as built.

    >>> unscaled(VARIANTS["efficientnetv2-b3"]).stages[1].repeats
    3
    """
    built = plan(variant)
    stages = []
    for number, stage in enumerate(variant.stages, start=1):
        blocks = [b for b in built.blocks if _stage_number(b.name) == number]
        stages.append(replace(stage, filters=blocks[0].out_filters, repeats=len(blocks)))
    return replace(
        variant,
        stages=tuple(stages),
        stem_filters=built.stem_filters,
        head_filters=built.head_filters,
        width=1.0,
        depth=1.0,
    )


def canonical_form(variant: Variant) -> str:
    """The block strings of the network as built: equal for equal networks.

    >>> canonical_form(SPACES["small"].base).split()[:2]
    ['r1_k3_s1_e1_i16_o16_c1', 'r1_k3_s2_e4_i16_o24_c1']
    """
    built = unscaled(variant)
    return " ".join(format_stages(built.stages, built.stem_filters))


def space_around(base: Variant, name: str | None = None) -> SearchSpace:
    """The search space with a network's filters and strides, and layers around its own."""
    built = unscaled(base)
    return SearchSpace(
        name=name or base.name,
        base=built,
        choices=tuple(
            StageChoices(OPS, KERNEL_SIZES, EXPAND_RATIOS, _repeats_around(stage.repeats))
            for stage in built.stages
        ),
    )


def _repeats_around(repeats):
    return tuple(sorted({max(1, math.floor(repeats * f + 0.5)) for f in _REPEAT_FACTORS}))


def _stage_number(block_name):
    return int("".join(c for c in block_name[len("block") :] if c.isdigit()))


# For images of 32 px: as the stages of V2-B0, with fewer filters and less reduction.
_SMALL = Variant(
    name="small",
    family=V2,
    stages=(
        Stage("fused", 3, 1, 1, 16, 1, 0.0),
        Stage("fused", 3, 2, 4, 24, 1, 0.0),
        Stage("mbconv", 3, 2, 4, 48, 2, _SE_RATIO),
        Stage("mbconv", 3, 1, 6, 64, 2, _SE_RATIO),
    ),
    stem_filters=16,
    width=1.0,
    depth=1.0,
    image_size=32,
    dropout_rate=0.1,
    top1=None,
    normalization=Normalization((128.0,) * 3, (128.0,) * 3),
    head_filters=256,
    drop_path_rate=0.0,
)

SPACES = {
    space.name: space
    for space in (
        *(space_around(v) for v in VARIANTS.values() if v.family == V2),
        space_around(_SMALL),
    )
}
