"""Compound scaling of any network (arXiv 1905.11946, section 3.3). No Keras, no TensorFlow.

One unit of phi multiplies depth by alpha, width by beta and the image size by gamma. With alpha *
beta^2 * gamma^2 near 2 this about doubles the multiply-adds. The rule is exact but networks are
rounded: filters to multiples of 8, repeats upwards. So the cost of a variant is always counted
(:func:`keras_effnet.model_cost.cost`), never computed from the rule.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from keras_effnet.model_cost import Cost, cost
from keras_effnet.network_plan import MIN_IMAGE_SIZE, plan
from keras_effnet.search_space import unscaled
from keras_effnet.variant_file import MAX_FACTOR, MAX_IMAGE_SIZE
from keras_effnet.variant_lookup import find_variant
from keras_effnet.variants import VARIANTS, Evaluation, Variant

# All published image sizes of V1, V2 and Lite are multiples of 4; not all are of 8 (260, 300, 380).
SIZE_STEP = 4

V2_MAX_IMAGE_SIZE = 480  # EfficientNetV2's, above which memory and time grow too much
V2_LATE_STAGES = 2  # to which its rule adds layers

_Network = TypeVar("_Network")


@dataclass(frozen=True)
class Coefficients:
    """The factors by which one unit of phi multiplies a network's dimensions."""

    alpha: float = 1.2  # depth
    beta: float = 1.1  # width
    gamma: float = 1.15  # image size

    @property
    def growth(self) -> float:
        """The factor on the multiply-adds for one unit of phi, without rounding.

        >>> round(Coefficients().growth, 2)
        1.92
        """
        return self.alpha * self.beta**2 * self.gamma**2


# The result of the paper's grid search on B0 (section 3.3, step 1), used for the whole family.
PAPER = Coefficients(alpha=1.2, beta=1.1, gamma=1.15)

# {base: {variant: phi}}. The paper does not state phi. These are the half steps nearest to the
# published widths and image sizes; the published depths match them up to B4 and are lower from B5.
_B1_TO_B3 = (0.5, 1.0, 2.0)
PUBLISHED_PHI = {
    "efficientnet-b0": {
        f"efficientnet-b{i}": phi
        for i, phi in enumerate((0.0, *_B1_TO_B3, 3.5, 5.0, 6.0, 7.0, 8.0))
    },
    "efficientnet-lite0": {
        f"efficientnet-lite{i}": phi for i, phi in enumerate((0.0, *_B1_TO_B3, 3.5))
    },
    "efficientnetv2-b0": {f"efficientnetv2-b{i}": phi for i, phi in enumerate((0.0, *_B1_TO_B3))},
}


def compound(
    builder: Callable[[float, float, int], _Network],
    phi: float,
    *,
    image_size: int = 224,
    coefficients: Coefficients = PAPER,
) -> _Network:
    """``builder(width, depth, image_size)`` with the factors and the size that belong to phi.

    For networks of your own: `builder` is any function of a factor on the filters, a factor on the
    layers and a size in pixels, and may return anything. `image_size` is the size at phi = 0; the
    scaled one is rounded to the nearest multiple of 4. Raises ``ValueError`` for a phi or a size
    that is not a finite number, a phi that is too large, and a size outside 4 to 4,096 pixels.

    >>> def layers_of(width, depth, image_size):
    ...     return [round(64 * width)] * math.ceil(8 * depth), image_size
    >>> compound(layers_of, 2)
    ([77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77], 296)
    """
    if not callable(builder):
        raise ValueError(f"builder {builder!r} is not a function; scale() scales networks by name")
    _check_number("image_size", image_size)
    width, depth, size = _factors(phi, image_size, coefficients)
    if size < SIZE_STEP:
        raise ValueError(f"phi {phi:g} gives images of {size} pixels a side: use a larger phi")
    bounds = ("image size", size, MAX_IMAGE_SIZE), ("width", width, MAX_FACTOR)
    for what, value, bound in (*bounds, ("depth", depth, MAX_FACTOR)):
        if value > bound:
            raise ValueError(
                f"phi {phi:g} gives {what} {value:,.5g}, above {bound:,g}: use a smaller phi"
            )
    return builder(_exact(width), _exact(depth), size)


def scale(
    base: str | Variant,
    phi: float | None = None,
    *,
    width: float | None = None,
    depth: float | None = None,
    image_size: int | None = None,
    coefficients: Coefficients = PAPER,
    name: str | None = None,
) -> Variant:
    """A new :class:`Variant`: `base` (a variant or its name) scaled by phi or by dimension.

    The base may also be "mobilenetv2" or "resnet50".

    ``scale(base, phi)`` multiplies the base's depth by ``alpha**phi``, its width by ``beta**phi``
    and its image size by ``gamma**phi``, rounded to the nearest multiple of 4; phi may be negative.
    ``scale(base, width=1.4, depth=1.8, image_size=380)`` multiplies width and depth by those
    factors and sets the size in pixels (this turns B0 into B4); omitted arguments keep the base's
    values. Width and depth are not rounded here; the plan rounds filters to multiples of 8 and
    repeats upwards. Dropout and normalization are kept (the published family increases dropout by
    hand). The evaluation is without crop, since none was published. `name` defaults to the base's
    with the scaling as suffix. Raises ``ValueError`` if both or neither of phi and dimensions are
    given, for a value that is not a finite number, and for an image below 32 pixels.

    >>> larger = scale("efficientnet-b0", 1)
    >>> larger.name, larger.width, larger.depth, larger.image_size
    ('efficientnet-b0-phi1', 1.1, 1.2, 256)
    >>> b4 = scale("efficientnet-b0", width=1.4, depth=1.8, image_size=380)
    >>> plan(b4).blocks == plan("efficientnet-b4").blocks
    True
    """
    v = find_variant(base)
    by_hand = {"width": width, "depth": depth, "image_size": image_size}
    given = {what: value for what, value in by_hand.items() if value is not None}
    if (phi is None) == (not given):
        raise ValueError(
            f"scale({v.name!r}) takes either phi or some of width, depth and image_size; got "
            + ("both" if given else "neither")
        )
    if phi is not None:
        width, depth, image_size = _factors(phi, v.image_size, coefficients)
        suffix = f"phi{phi:g}"
    else:
        for what, value in given.items():
            _check_number(what, value)
        width = 1.0 if width is None else width
        depth = 1.0 if depth is None else depth
        image_size = v.image_size if image_size is None else image_size
        suffix = f"w{width:g}-d{depth:g}-r{image_size:g}"
    if image_size != int(image_size):
        raise ValueError(f"image_size {image_size!r} is not a whole number of pixels")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"{v.name} scaled to {int(image_size)} px is too small: the network halves the image "
            f"five times. Use at least {MIN_IMAGE_SIZE} pixels"
        )
    for what, value, bound in (
        ("image size", image_size, MAX_IMAGE_SIZE),
        ("width", v.width * width, MAX_FACTOR),
        ("depth", v.depth * depth, MAX_FACTOR),
    ):
        if value > bound:
            raise ValueError(
                f"{v.name}-{suffix} would have {what} {value:,.5g}, above {bound:,g}: the largest "
                "published network (L2) has width 4.3, depth 5.3 and 800 px. Use a smaller "
                + ("phi" if phi is not None else what)
            )
    return replace(
        v,
        name=f"{v.name}-{suffix}" if name is None else name,
        width=_exact(v.width * width),
        depth=_exact(v.depth * depth),
        image_size=int(image_size),
        top1=None,
        evaluation=Evaluation(None, "bilinear"),  # nothing was published for it
    )


def scale_v2(
    base: str | Variant = "efficientnetv2-s",
    phi: float = 1.0,
    *,
    late_layers: float = 1.0,
    max_image_size: int = V2_MAX_IMAGE_SIZE,
    coefficients: Coefficients = PAPER,
    name: str | None = None,
) -> Variant:
    """A new :class:`Variant`: `base` scaled by EfficientNetV2's rule (arXiv 2104.00298, 3.3).

    Compound scaling with two changes: the image is at most `max_image_size` pixels a side, and each
    of the last two stages gets ``late_layers * phi`` additional layers (rounded; none for a
    negative phi). The paper states the limit of 480 pixels, but no numbers of layers:
    docs/scaling.md compares the results with the published M and L. The variant has width 1 and
    depth 1: its stages are the scaled ones. Raises ``ValueError`` as :func:`scale` does.

    >>> larger = scale_v2("efficientnetv2-s", 1.5)
    >>> [stage.repeats for stage in larger.stages], larger.image_size
    ([3, 6, 6, 8, 14, 22], 472)
    >>> scale_v2("efficientnetv2-s", 3).image_size
    480
    """
    v = find_variant(base)
    _check_number("late_layers", late_layers, positive=False)
    _check_number("max_image_size", max_image_size)
    name = f"{v.name}-v2-phi{phi:g}" if name is None else name
    scaled = unscaled(scale(v, phi, coefficients=coefficients, name=name))
    extra = max(0, math.floor(late_layers * phi + 0.5))
    early, late = scaled.stages[:-V2_LATE_STAGES], scaled.stages[-V2_LATE_STAGES:]
    return replace(
        scaled,
        stages=early + tuple(replace(s, repeats=s.repeats + extra) for s in late),
        image_size=min(scaled.image_size, max(MIN_IMAGE_SIZE, int(max_image_size))),
    )


@dataclass(frozen=True)
class Member:
    """One point of a scaled family: the rule's network, and the one published for that phi."""

    phi: float
    rule: Variant
    rule_cost: Cost
    published: Variant | None
    published_cost: Cost | None


def family(
    base: str | Variant = "efficientnet-b0",
    phis: Iterable[float] | None = None,
    *,
    coefficients: Coefficients = PAPER,
) -> tuple[Member, ...]:
    """Networks scaled from a base, each with its cost and the published network of that phi.

    `phis` defaults to those of the published family (``PUBLISHED_PHI``), or to 0, 1, 2, 3 for a
    base without one. The published coefficients were rounded by hand; see docs/scaling.md.

    >>> b1 = family("efficientnet-b0", [0.5])[0]
    >>> b1.published.name, b1.rule.image_size, b1.published.image_size
    ('efficientnet-b1', 240, 240)
    """
    v = find_variant(base)
    published = {}
    if VARIANTS.get(v.name) == v:
        published = {phi: VARIANTS[name] for name, phi in PUBLISHED_PHI.get(v.name, {}).items()}
    members = []
    for phi in (published or (0, 1, 2, 3)) if phis is None else phis:
        rule, known = scale(v, phi, coefficients=coefficients), published.get(phi)
        members.append(Member(phi, rule, cost(rule), known, known and cost(known)))
    return tuple(members)


@dataclass(frozen=True)
class Candidate:
    """One row of a search: three coefficients, their network at phi = 1, and its accuracy."""

    coefficients: Coefficients
    variant: Variant
    macs: int
    growth: float  # counted multiply-adds relative to the base; `coefficients.growth` is the rule's
    fits: bool  # whether the counted growth is also within the tolerance
    accuracy: float | None  # None if it was not evaluated

    def __str__(self) -> str:
        """The row as text."""
        c = self.coefficients
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.4g}"
        return (
            f"alpha {c.alpha:.2f} beta {c.beta:.2f} gamma {c.gamma:.2f}: rule {c.growth:.2f}x, "
            f"real {self.growth:.2f}x ({self.macs / 1e9:.2f} GMACs), accuracy {accuracy}"
            + ("" if self.fits else " (misses)")
        )


STEPS = tuple(1 + i / 20 for i in range(9))  # 1.00, 1.05 ... 1.40
GROWTH, GROWTH_TOLERANCE = 2.0, 0.05  # of the multiply-adds, by the rule


def grid_coefficients(
    grid: Sequence[Sequence[float]] = (STEPS, STEPS, STEPS),
    target: float = GROWTH,
    tolerance: float = GROWTH_TOLERANCE,
) -> tuple[Coefficients, ...]:
    """The combinations of a grid whose growth is within a relative `tolerance` of `target`.

    >>> len(grid_coefficients())
    75
    """
    alphas, betas, gammas = grid
    every = (Coefficients(*values) for values in itertools.product(alphas, betas, gammas))
    return tuple(c for c in every if _within(c.growth, target, tolerance))


def search(
    base: str | Variant,
    accuracy: Callable[[Variant], float],
    *,
    grid: Sequence[Sequence[float]] = (STEPS, STEPS, STEPS),
    target: float = GROWTH,
    tolerance: float = GROWTH_TOLERANCE,
    cost_tolerance: float = 0.15,
    skip_misses: bool = False,
) -> tuple[Candidate, ...]:
    """The paper's grid search for (alpha, beta, gamma), best :class:`Candidate` first.

    Evaluates the combinations of `grid` (values of alpha, of beta, of gamma; 1.00 to 1.40 in steps
    of 0.05) with ``alpha * beta**2 * gamma**2`` within a relative `tolerance` of `target`.
    `accuracy` maps the :class:`Variant` at phi = 1 to a number, higher is better, e.g. by training
    it. It is called once for each network: alpha 1.05 and 1.2 round to the same blocks on B0.

    Rounding moves the counted cost away from the rule's (repeats are rounded up, so B0 with alpha
    1.05 has 7 additional blocks). A candidate whose counted multiply-adds differ from `target` by
    more than a relative `cost_tolerance` is marked (``fits`` is False). With `skip_misses` it is
    not evaluated, has no accuracy and comes last. Of equal accuracies the cheaper comes first.
    Raises ``ValueError`` for a grid without a candidate, and for an accuracy that is not a finite
    number.

    >>> def train(variant):  # a formula instead of training
    ...     return 75 + variant.width + variant.depth / 2 + variant.image_size / 512
    >>> rows = search("efficientnet-b0", train, grid=([1.2], [1.0, 1.1], [1.15, 1.3]))
    >>> for row in rows:
    ...     print(row)
    alpha 1.20 beta 1.10 gamma 1.15: rule 1.92x, real 2.23x (0.86 GMACs), accuracy 77.2
    alpha 1.20 beta 1.00 gamma 1.30: rule 2.03x, real 2.77x (1.07 GMACs), accuracy 77.17 (misses)
    """
    v = find_variant(base)
    base_macs = cost(v).macs
    accuracies, rows = {}, []
    for c in grid_coefficients(grid, target, tolerance):
        name = f"{v.name}-a{c.alpha:g}-b{c.beta:g}-g{c.gamma:g}"
        variant = scale(v, 1, coefficients=c, name=name)
        macs = cost(variant).macs
        fits = _within(macs / base_macs, target, cost_tolerance)
        reached = None
        if fits or not skip_misses:
            p = plan(variant)
            network = (p.blocks, p.stem_filters, p.head_filters, p.image_size)
            if network not in accuracies:
                accuracies[network] = _checked_accuracy(accuracy(variant), variant)
            reached = accuracies[network]
        rows.append(Candidate(c, variant, macs, macs / base_macs, fits, reached))
    if not rows:
        raise ValueError(
            f"No (alpha, beta, gamma) of the grid has alpha * beta^2 * gamma^2 within "
            f"{tolerance:.0%} of {target:g}: give a finer grid or a larger tolerance"
        )
    return tuple(sorted(rows, key=lambda r: (r.accuracy is None, -(r.accuracy or 0), r.macs)))


def _factors(phi, image_size, coefficients):
    """(factor on the width, factor on the depth, image size) of a phi, the factors not rounded."""
    _check_number("phi", phi, positive=False)
    for what in ("alpha", "beta", "gamma"):
        _check_number(what, getattr(coefficients, what))
    try:
        return (
            coefficients.beta**phi,
            coefficients.alpha**phi,
            nearest_size(image_size * coefficients.gamma**phi),
        )
    except OverflowError as error:
        raise ValueError(f"phi {phi:g} is too large: published networks have -3 to 10") from error


def _exact(factor):
    """Four digits: a rounding error above 2.0 would be rounded up to a third block."""
    return round(factor, 4)


def nearest_size(pixels: float) -> int:
    """The nearest multiple of 4 pixels."""
    return int(pixels / SIZE_STEP + 0.5) * SIZE_STEP


def _within(value, target, tolerance):
    return abs(value / target - 1) <= tolerance + 1e-9  # floating-point error of the grid


def _check_number(what, value, positive=True):
    finite = (
        isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    )
    if not finite or (positive and value <= 0):
        kind = "a number above 0" if positive else "a finite number"
        raise ValueError(f"{what} {value!r} cannot scale a network: give {kind}")


def _checked_accuracy(value, variant):
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(
            f"accuracy({variant.name}) returned {value!r}: it must return a finite number"
        )
    return float(value)
