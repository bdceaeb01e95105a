"""Result of porting a checkpoint: mapped weights, and output differences after each block.

The differences are to the source project's own network, on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

from keras_effnet.pretrained.input_settings import Setting


@dataclass(frozen=True)
class Difference:
    """The difference between two networks' outputs at one place, for the same images."""

    place: str  # "stem", "block1a", ..., "top", "logits"
    scale: float  # the largest absolute value of the source's output
    largest: float  # the largest absolute difference

    @property
    def relative(self) -> float:
        """The largest difference relative to the largest value."""
        return self.largest / self.scale if self.scale else self.largest


@dataclass(frozen=True)
class ParityReport:
    """The result of porting a checkpoint. ``str(report)`` is a table."""

    source: str  # "timm tf_efficientnet_b0"
    path: str
    model: str  # our variant
    mapped: int  # arrays of the file that are in the model
    total: int  # arrays of the model
    notes: tuple[str, ...]  # epsilon, padding, normalization, preprocessing
    differences: tuple[Difference, ...]  # empty if not compared
    not_compared: str  # the reason; "" if compared
    settings: tuple[Setting, ...] = ()  # how images are prepared, and how that is known

    @property
    def worst(self) -> Difference | None:
        """The largest relative :class:`Difference`; None if outputs were not compared."""
        return max(self.differences, key=lambda d: d.relative, default=None)

    def __str__(self) -> str:
        lines = [
            f"{self.path}",
            f"{self.source} -> {self.model}: {self.mapped} of {self.total} weights mapped",
            *self.notes,
            *(f"{s.name.replace('_', ' '):<14}{s.text:<26}{s.origin}" for s in self.settings),
        ]
        if self.not_compared:
            return "\n".join([*lines, f"Outputs were not compared: {self.not_compared}"])
        lines.append(f"{'':<10}{'largest value':>14}{'difference':>12}{'relative':>11}")
        lines += [
            f"{d.place:<10}{d.scale:>14.4g}{d.largest:>12.2e}{d.relative:>11.2e}"
            for d in self.differences
        ]
        worst = self.worst
        lines.append(f"Largest relative difference: {worst.relative:.2e} ({worst.place})")
        return "\n".join(lines)
