"""Compares a measured accuracy with the published one of released weights."""

from __future__ import annotations

from dataclasses import dataclass

from keras_effnet.evaluation.per_class import Share
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.variants import VARIANTS

_VALIDATION_IMAGES = 50_000  # of ImageNet-1k
_ROUNDING = 0.0005  # published figures have one decimal of a per cent


@dataclass(frozen=True)
class Published:
    """A published top-1 accuracy on ImageNet-1k's validation images."""

    weights: str
    top1: float  # in [0, 1]
    source: str

    def compare(self, measured: Share, images: int) -> dict:
        """{"agrees", "message", "published", "source"}: whether the published accuracy is within
        the 95 % interval of the measured one.

        >>> published = Published("x", 0.751, "the paper")
        >>> published.compare(Share.of(37_500, 50_000), 50_000)["agrees"]
        True
        """
        agrees = measured.low - _ROUNDING <= self.top1 <= measured.high + _ROUNDING
        note = ""
        if images != _VALIDATION_IMAGES:
            note = (
                f". The figure is of ImageNet's {_VALIDATION_IMAGES:,} validation images; these "
                f"are {images:,}"
            )
        message = (
            f"published top-1 of {self.weights}: {self.top1:.1%} ({self.source}), measured "
            f"{measured.value:.2%}: {'within' if agrees else 'outside'} the 95 % interval "
            f"{measured.low:.2%} to {measured.high:.2%}{note}"
        )
        return {
            "agrees": agrees,
            "message": message,
            "published": self.top1,
            "source": self.source,
        }


def find_published(model: str, weights: str | None) -> Published:
    """The :class:`Published` accuracy of released weights.

    Raises ``ValueError`` for a file, and for weights without a published figure.

    >>> find_published("efficientnet-lite0", "imagenet").top1
    0.751
    """
    if model not in VARIANTS:
        raise ValueError(
            f"--check compares released weights with their published figure, and --model={model} "
            "is not a name of `effnet models`: drop --check"
        )
    released = resolve_weights(model, weights or "auto").released
    if released is None or released.top1 is None:
        named = weights if released is None else released.name
        raise ValueError(
            f"--check: there is no published figure for {model} with the weights {named!r}; "
            "`effnet weights` lists those that have one"
        )
    top1 = round(released.top1 / 100, 4)
    return Published(f"{model} {released.name}", top1, released.source)
