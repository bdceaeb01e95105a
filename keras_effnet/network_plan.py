"""Variant -> Plan: every block of the network, with all numbers resolved. No Keras, no TensorFlow.

The builder (:mod:`keras_effnet.model`) and the cost (:mod:`keras_effnet.model_cost`) only follow
the plan: the printed plan is what is built.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from keras_effnet.variant_lookup import find_variant
from keras_effnet.variants import Normalization, Variant

# Below this the last stages have less than one pixel; also keras.applications' limit.
MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class Block:
    """One block, with final filter counts; a count of 0 means no such layer."""

    name: str  # "block2a": stage and letter; the prefix of its layers' names
    op: str  # "mbconv" | "fused" | "bottleneck"
    kernel_size: int
    stride: int
    in_filters: int
    # of a bottleneck: of its spatial convolution; else between expansion and projection, which are
    # in_filters for an expand ratio of 1
    expand_filters: int
    out_filters: int
    se_filters: int
    drop_rate: float  # stochastic depth: probability that training skips the residual branch
    residual: bool

    @property
    def expands(self) -> bool:
        """Whether an MBConv or Fused-MBConv block begins with an expansion convolution."""
        return self.op != "bottleneck" and self.expand_filters != self.in_filters

    @property
    def projects_shortcut(self) -> bool:
        """Whether the shortcut of a bottleneck has a convolution, to have the output's shape."""
        changes = self.stride > 1 or self.in_filters != self.out_filters
        return self.op == "bottleneck" and changes


@dataclass(frozen=True)
class Plan:
    """A fully resolved network. ``str(plan)`` is the table of its blocks."""

    name: str
    image_size: int
    stem_filters: int
    blocks: tuple[Block, ...]
    head_filters: int  # 0: no convolution before the pooling
    dropout_rate: float
    activation: str
    depthwise_name: str
    bn_momentum: float
    bn_epsilon: float
    padding: str  # "same" | "symmetric"; they differ only in strided convolutions
    normalization: Normalization
    stem_kernel_size: int = 3
    stem_pool: bool = False

    def __str__(self) -> str:
        """The blocks as an aligned table."""
        w = max(8, *(len(b.op) + 2 for b in self.blocks))
        lines = [
            f"{self.name}: {len(self.blocks)} blocks, {self.image_size} px, {self.activation}, "
            f"batch-norm momentum {self.bn_momentum} epsilon {self.bn_epsilon}, "
            f"dropout {self.dropout_rate}"
            + ("" if self.padding == "same" else f", {self.padding} padding"),
            f"{'block':<10}{'op':<{w}}{'kernel':>6}{'stride':>7}{'in':>6}{'expand':>8}{'out':>6}"
            f"{'se':>5}{'drop':>8}  residual",
            f"{'stem':<10}{'conv':<{w}}{self.stem_kernel_size:>6}{2:>7}{3:>6}{'':>8}"
            f"{self.stem_filters:>6}",
        ]
        if self.stem_pool:
            filters = self.stem_filters
            lines.append(f"{'stem':<10}{'maxpool':<{w}}{3:>6}{2:>7}{filters:>6}{'':>8}{filters:>6}")
        for b in self.blocks:
            lines.append(
                f"{b.name:<10}{b.op:<{w}}{b.kernel_size:>6}{b.stride:>7}{b.in_filters:>6}"
                f"{b.expand_filters if b.op == 'bottleneck' or b.expands else '-':>8}"
                f"{b.out_filters:>6}{b.se_filters or '-':>5}{b.drop_rate:>8.4f}"
                f"  {'yes' if b.residual else '-'}"
            )
        if self.head_filters:
            lines.append(
                f"{'top':<10}{'conv':<{w}}{1:>6}{1:>7}{self.blocks[-1].out_filters:>6}{'':>8}"
                f"{self.head_filters:>6}"
            )
        return "\n".join(lines)


def plan(
    variant: str | Variant,
    *,
    drop_path_rate: float | None = None,
    dropout_rate: float | None = None,
) -> Plan:
    """The :class:`Plan` of a :class:`Variant` or of its name.

    Block ``i`` of ``n`` has the stochastic-depth rate ``drop_path_rate * i / n`` (the official
    code's rule; ``n`` counts the blocks *after* depth scaling). `dropout_rate` applies before the
    classifier. Both default to the variant's. Raises ``ValueError`` for an unknown name, or a rate
    outside [0, 1).

    >>> plan("efficientnet-b3").blocks[-1].name
    'block7b'
    """
    v = find_variant(variant)
    drop_path_rate = checked_rate("drop_path_rate", drop_path_rate, v.drop_path_rate)
    scaled_stem = v.stem_filters if v.family.fixed_ends else scale_filters(v.stem_filters, v)
    repeats = [_scale_repeats(i, v) for i in range(len(v.stages))]
    total = sum(repeats)  # after scaling: the drop rate ramps over the blocks that exist

    blocks = []
    in_filters = scaled_stem
    for number, (stage, count) in enumerate(zip(v.stages, repeats), start=1):
        expand_filters, out_filters = None, scale_filters(stage.filters, v)
        if stage.op == "bottleneck":  # its narrow convolution decides
            expand_filters = scale_filters(stage.filters // stage.expand_ratio, v)
            out_filters = expand_filters * stage.expand_ratio
        for j in range(count):
            stride = stage.stride if j == 0 else 1
            blocks.append(
                Block(
                    name=f"block{number}{_letter(j)}",
                    op=stage.op,
                    kernel_size=stage.kernel_size,
                    stride=stride,
                    in_filters=in_filters,
                    expand_filters=expand_filters or in_filters * stage.expand_ratio,
                    out_filters=out_filters,
                    se_filters=max(1, int(in_filters * stage.se_ratio)) if stage.se_ratio else 0,
                    drop_rate=drop_path_rate * len(blocks) / total,
                    residual=stage.op == "bottleneck"
                    or (stride == 1 and in_filters == out_filters),
                )
            )
            in_filters = out_filters

    return Plan(
        name=v.name,
        image_size=v.image_size,
        stem_filters=scaled_stem,
        blocks=tuple(blocks),
        head_filters=_scale_head(v),
        dropout_rate=checked_rate("dropout_rate", dropout_rate, v.dropout_rate),
        activation=v.family.activation,
        depthwise_name=v.family.depthwise_name,
        bn_momentum=v.family.bn_momentum,
        bn_epsilon=v.bn_epsilon,
        padding=_padding(v.padding),
        normalization=v.normalization,
        stem_kernel_size=v.family.stem_kernel_size,
        stem_pool=v.family.stem_pool,
    )


def scale_filters(filters: int, variant: Variant) -> int:
    """Filters times the variant's width, rounded to a multiple of 8 by its family's rule.

    V1 rounds up where rounding to the nearest would lose more than 10 %; V2 does not. Of the
    published variants only B3 shows it: 16 * 1.2 is 24 in V1 and 16 in V2.
    """
    scaled = filters * variant.width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < variant.family.round_limit * scaled else rounded


def _scale_head(v):
    fixed = v.family.fixed_ends or (v.family.head_grows_only and v.width < 1)
    return v.head_filters if fixed or not v.head_filters else scale_filters(v.head_filters, v)


def _scale_repeats(i, v):
    fixed = v.family.fixed_ends and i in (0, len(v.stages) - 1)
    return v.stages[i].repeats if fixed else math.ceil(v.depth * v.stages[i].repeats)


def _letter(j):
    """Letters a ... z as in keras.applications, then za, zb ...

    The names stay sorted and valid in TensorFlow scopes.
    """
    return "z" * (j // 26) + chr(97 + j % 26)


def _padding(padding):
    if padding not in ("same", "symmetric"):
        raise ValueError(f"padding {padding!r} is unknown: give 'same' or 'symmetric'")
    return padding


def checked_rate(what: str, given: float | None, default: float) -> float:
    """A dropout rate, or the default for None; ``ValueError`` unless it is in [0, 1)."""
    rate = default if given is None else given
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
        raise ValueError(
            f"{what} {rate!r} is not a probability: give a number in [0, 1), or None for {default}"
        )
    return rate
