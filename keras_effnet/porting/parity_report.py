"""What a conversion did, as a table that people read: weights mapped, and how far our answers are
from the source's own network, block by block.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """How far two networks are apart at one place, for the same images."""

    place: str  # "stem", "block1a", ..., "top", "logits"
    scale: float  # the source's largest absolute value there
    largest: float  # the largest absolute difference

    @property
    def relative(self):
        """The largest difference as a share of the largest value."""
        return self.largest / self.scale if self.scale else self.largest


@dataclass(frozen=True)
class Report:
    """A conversion's result. ``str(report)`` is the table."""

    source: str  # "timm tf_efficientnet_b0"
    path: str
    model: str  # our variant
    mapped: int  # arrays that went into the model
    total: int  # arrays that the model has
    notes: tuple  # of str: what a reader should know of the variant
    differences: tuple  # of Difference; empty if not compared
    not_compared: str  # why not; "" if compared

    @property
    def worst(self):
        """The :class:`Difference` with the largest share; None if the answers were not compared."""
        return max(self.differences, key=lambda d: d.relative, default=None)

    def __str__(self):
        lines = [
            f"{self.path}",
            f"{self.source} -> {self.model}: {self.mapped} of {self.total} weights mapped",
            *self.notes,
        ]
        if self.not_compared:
            return "\n".join([*lines, f"Answers were not compared: {self.not_compared}"])
        lines.append(f"{'':<10}{'largest value':>14}{'difference':>12}{'relative':>11}")
        lines += [
            f"{d.place:<10}{d.scale:>14.4g}{d.largest:>12.2e}{d.relative:>11.2e}"
            for d in self.differences
        ]
        worst = self.worst
        lines.append(f"Largest relative difference: {worst.relative:.2e} ({worst.place})")
        return "\n".join(lines)
