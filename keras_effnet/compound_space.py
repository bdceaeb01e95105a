"""Search spaces of compound scaling: alpha, beta and gamma of a base network. No Keras.

The paper's grid search (arXiv 1905.11946, section 3.3, step 1) as a search space: a point is a base
network, scaled with phi = 1. Its image size follows gamma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_effnet.network_plan import MIN_IMAGE_SIZE
from keras_effnet.scaling import STEPS, Coefficients, grid_coefficients, nearest_size, scale
from keras_effnet.search_space import canonical_form, unscaled
from keras_effnet.variants import Variant

_DIMENSIONS = ("alpha", "beta", "gamma")


@dataclass(frozen=True)
class CompoundSpace:
    """The coefficients of a base network from 1.00 to 1.40, in steps of 0.05."""

    name: str
    base: Variant

    def points(self) -> tuple[tuple[float, float, float], ...]:
        """Every (alpha, beta, gamma) that about doubles the base's multiply-adds.

        Many give the same network, since repeats are rounded up: the first of these stands for all.

        >>> from keras_effnet.variants import VARIANTS
        >>> points = CompoundSpace("compound:efficientnet-b0", VARIANTS["efficientnet-b0"]).points()
        >>> len(points), (1.2, 1.1, 1.15) in points
        (46, True)
        """
        first = {}
        for c in grid_coefficients():
            point = (c.alpha, c.beta, c.gamma)
            first.setdefault(self.network_key(point), point)
        return tuple(first.values())

    def size(self) -> int:
        """The number of points."""
        return len(self.points())

    def point(self, coefficients: tuple[float, float, float]) -> Variant:
        """The base, scaled once by (alpha, beta, gamma)."""
        alpha, beta, gamma = coefficients
        name = f"{self.base.name}-a{alpha:g}-b{beta:g}-g{gamma:g}"
        return scale(self.base, 1, coefficients=Coefficients(alpha, beta, gamma), name=name)

    def dimensions(self) -> dict[str, tuple]:
        """{name: options} of every single choice, in a fixed order."""
        return dict.fromkeys(_DIMENSIONS, STEPS)

    def to_dimensions(self, coefficients: tuple[float, float, float]) -> dict[str, object]:
        """{name: what is chosen} of a point, with the names of :meth:`dimensions`."""
        return dict(zip(_DIMENSIONS, coefficients))

    def from_dimensions(self, values: Mapping[str, object]) -> tuple[float, float, float]:
        """The reverse of :meth:`to_dimensions`."""
        return tuple(values[name] for name in _DIMENSIONS)

    def network_key(self, coefficients: tuple[float, float, float]) -> str:
        """A text that is equal for coefficients that give the same network and image size."""
        variant = unscaled(self.point(coefficients))
        return f"{canonical_form(variant)} {variant.head_filters} {variant.image_size}"


def size_in_trial(size: int, base: Variant, variant: Variant) -> int:
    """The image size of a network's trial, in which the base network would have `size` pixels.

    >>> from keras_effnet.variants import VARIANTS
    >>> b0 = VARIANTS["efficientnet-b0"]
    >>> size_in_trial(128, b0, scale(b0, 1)), size_in_trial(130, b0, b0)
    (148, 130)
    """
    if variant.image_size == base.image_size:
        return size
    return max(MIN_IMAGE_SIZE, nearest_size(size * variant.image_size / base.image_size))
