"""Recipe -> phases: what changes when, resolved to steps. Pure: no TensorFlow.

Progressive learning (EfficientNetV2, arXiv 2104.00298, Algorithm 1): image size and regularisation
grow together from phase to phase; weights, optimizer and averages go on.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Equal steps in a row: from `first_step` to the one before `end_step`."""

    number: int  # from 1
    first_step: int
    end_step: int
    image_size: int  # pixels a side
    magnitude: float  # RandAugment
    mixup: float  # alpha
    dropout_rate: float


def total_steps(recipe, examples):
    """Steps of a whole run: the epochs' images over the global batch, at least one a phase."""
    return max(recipe.phases, round(recipe.epochs * examples / recipe.batch_size))


def phases(recipe, examples):
    """The phases of a recipe on `examples` training images, as a tuple of :class:`Phase`."""
    steps, n = total_steps(recipe, examples), recipe.phases
    return tuple(
        Phase(
            number=i + 1,
            first_step=steps * i // n,
            end_step=steps * (i + 1) // n,
            image_size=int(ramp(recipe.image_size_first, recipe.image_size_last, i, n)),
            magnitude=ramp(recipe.magnitude_first, recipe.magnitude_last, i, n),
            mixup=ramp(recipe.mixup_first, recipe.mixup_last, i, n),
            dropout_rate=ramp(recipe.dropout_first, recipe.dropout_last, i, n),
        )
        for i in range(n)
    )


def ramp(first, last, i, n):
    """The value of phase `i` of `n` (from 0) on the line from `first` to `last`; reaches both ends.

    >>> [ramp(128, 300, i, 4) for i in range(4)]
    [128.0, 185.33333333333334, 242.66666666666666, 300.0]
    """
    return float(last) if n == 1 else (first * (n - 1 - i) + last * i) / (n - 1)


def show(all_phases):
    """The phases as an aligned table."""
    lines = [
        f"{'phase':>5}{'steps':>15}{'image size':>12}{'magnitude':>11}{'mixup':>8}{'dropout':>9}"
    ]
    for p in all_phases:
        lines.append(
            f"{p.number:>5}{f'{p.first_step}-{p.end_step - 1}':>15}{p.image_size:>12}"
            f"{p.magnitude:>11.2f}{p.mixup:>8.2f}{p.dropout_rate:>9.2f}"
        )
    return "\n".join(lines)
