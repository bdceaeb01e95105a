"""Recipe -> phases: what changes when, resolved to steps. Pure: no TensorFlow.

Progressive learning (EfficientNetV2, arXiv 2104.00298, Algorithm 1): image size and regularisation
grow together from phase to phase; weights, optimizer and averages go on.
"""

import math
import random
from dataclasses import dataclass

LEAST_IMAGE_SIZE = 32


@dataclass(frozen=True)
class Phase:
    """Equal steps in a row: from `first_step` to the one before `end_step`."""

    number: int  # from 1
    first_step: int
    end_step: int
    first_example: int  # images of the run before this phase
    batch_size: int  # global
    accumulation: int  # parts that a batch is computed in, one after the other
    image_size: int  # pixels a side
    magnitude: float  # RandAugment
    mixup: float  # alpha
    cutmix: float  # alpha
    dropout_rate: float
    drop_path_rate: float  # at the last block


def phases(recipe, examples):
    """The phases of a recipe on `examples` training images, as a tuple of :class:`Phase`."""
    n = recipe.phases
    batch_sizes = [_batch_size(recipe, i) for i in range(n)]
    walked, steps, seen = [], 0, 0
    for i, batch_size in enumerate(batch_sizes):
        left = (_end_epoch(recipe, i) * examples - seen) / batch_size
        rounds = (
            i == n - 1 and recipe.progressive_schedule != "code"
        )  # main.py: epochs * images // batch
        end = steps + max(1, round(left) if rounds else int(left))
        if recipe.min_steps:
            end = max(end, round(recipe.min_steps * (i + 1) / n))
        image_size = _image_size(recipe, i)
        place = _place(recipe, i, image_size)
        walked.append(
            Phase(
                number=i + 1,
                first_step=steps,
                end_step=end,
                first_example=seen,
                batch_size=batch_size,
                accumulation=_accumulation(recipe, i),
                image_size=image_size,
                magnitude=ramp(
                    recipe.randaugment_magnitude_first, recipe.randaugment_magnitude_last, *place
                ),
                mixup=ramp(recipe.mixup_first, recipe.mixup_last, *place),
                cutmix=ramp(recipe.cutmix_first, recipe.cutmix_last, *place),
                dropout_rate=ramp(recipe.dropout_first, recipe.dropout_last, *place),
                drop_path_rate=ramp(recipe.drop_path_first, recipe.drop_path_last, *place),
            )
        )
        seen += (end - steps) * batch_size
        steps = end
    return tuple(walked)


def ramp(first, last, i, n):
    """The value of phase `i` of `n` (from 0) on the line from `first` to `last`; reaches both ends.

    >>> [ramp(128, 300, i, 4) for i in range(4)]
    [128.0, 185.33333333333334, 242.66666666666666, 300.0]
    """
    if n == 1 or first == last:  # exactly
        return float(last)
    return (first * (n - 1 - i) + last * i) / (n - 1)


def _end_epoch(recipe, i):
    """Of phase `i`; the official code's are whole epochs (main_tf2.py; main.py: the same share of
    the steps).
    """
    end = recipe.epochs * (i + 1) / recipe.phases
    whole = (
        recipe.progressive_schedule == "code"
        and i + 1 < recipe.phases
        and recipe.epochs >= recipe.phases
    )
    return int(end) if whole else end


def _image_size(recipe, i):
    first, last, n = recipe.image_size_first, recipe.image_size_last, recipe.phases
    if recipe.progressive_schedule == "random":
        size = random.Random(f"{recipe.seed} {i}").randint(min(first, last), max(first, last))
    elif (
        recipe.progressive_schedule == "code"
    ):  # main.py: ibase + (size - ibase) * (stage + 1) / total
        size = int(first + (last - first) * (i + 1) / n)
    else:
        size = int(ramp(first, last, i, n))
    unit = recipe.image_size_multiple
    if unit == 1:
        return size
    return max(-(-LEAST_IMAGE_SIZE // unit), round(size / unit)) * unit


def _place(recipe, i, image_size):
    """Where between its ends the regularisation of phase `i` is, as :func:`progressive_schedule` wants it: by the
    phase's number, or with random sizes by the size (the paper's Table 13).
    """
    if recipe.progressive_schedule != "random":
        return i, recipe.phases
    first, last = recipe.image_size_first, recipe.image_size_last
    within = min(max(image_size, min(first, last)), max(first, last))
    return abs(within - first), abs(last - first) + 1


def _batch_size(recipe, i):
    """On the line between both ends, in units of their greatest common divisor."""
    first, last = recipe.batch_size_first or recipe.batch_size, recipe.batch_size
    unit = math.gcd(first, last)
    return int(ramp(first, last, i, recipe.phases) / unit) * unit


def _accumulation(recipe, i):
    """On the line between both ends, rounded up to a power of two between them."""
    first, last = recipe.gradient_accumulation_first, recipe.gradient_accumulation_last
    if i in (0, recipe.phases - 1) or first == last:
        return last if i or recipe.phases == 1 else first
    wanted = ramp(first, last, i, recipe.phases)
    return min(max(first, last), 1 << math.ceil(math.log2(wanted)))


def show(all_phases):
    """The phases as an aligned table."""
    lines = [
        f"{'phase':>5}{'steps':>16}{'batch':>7}{'image size':>12}{'magnitude':>11}{'mixup':>7}"
        f"{'cutmix':>8}{'dropout':>9}{'drop path':>11}"
    ]
    for p in all_phases:
        parts = f"/{p.accumulation}" if p.accumulation > 1 else ""
        lines.append(
            f"{p.number:>5}{f'{p.first_step}-{p.end_step - 1}':>16}{f'{p.batch_size}{parts}':>7}"
            f"{p.image_size:>12}{p.magnitude:>11.2f}{p.mixup:>7.2f}{p.cutmix:>8.2f}"
            f"{p.dropout_rate:>9.3f}{p.drop_path_rate:>11.3f}"
        )
    return "\n".join(lines)
