"""The training phases of a recipe: its settings, resolved to steps. No TensorFlow.

Progressive learning (EfficientNetV2, arXiv 2104.00298, Algorithm 1): image size and regularization
grow together from phase to phase; weights, optimizer state and EMA weights carry over.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tpu_train.recipes.schema import Recipe

MIN_IMAGE_SIZE = 32
_BATCH_NORM_IMAGES = 16  # below, statistics are noisy (arXiv 1803.08494, figure 1)


@dataclass(frozen=True)
class Phase:
    """Consecutive training steps with the same shapes and rates: [first_step, end_step)."""

    number: int  # from 1
    first_step: int
    end_step: int
    first_example: int  # images of the run before this phase
    batch_size: int  # global
    accumulation: int  # gradient-accumulation steps of a batch
    image_size: int  # pixels a side
    magnitude: float  # RandAugment
    mixup: float  # alpha
    cutmix: float  # alpha
    dropout_rate: float
    drop_path_rate: float  # at the last block
    freeze: str  # what does not train: see the field of the recipe
    warms_up: bool = False  # again: other layers train than in the phase before
    unlabeled: int = 0  # pseudo-labeled images of a step, in addition to batch_size
    first_unlabeled: int = 0  # pseudo-labeled images of the run before this phase

    @property
    def images(self) -> int:
        """The images of a step: batch_size labeled ones, and the pseudo-labeled ones."""
        return self.batch_size + self.unlabeled

    def is_labeled(self, row):
        """Whether a row of a step's images is a labeled one; the rows are spread evenly.

        `row` is an integer, or an integer tensor.
        """
        return self.labeled_before(row + 1) > self.labeled_before(row)

    def labeled_before(self, row):
        """The number of labeled images in the rows before `row`."""
        return row * self.batch_size // self.images


def make_phases(recipe: Recipe, examples: int) -> tuple[Phase, ...]:
    """The phases of a recipe on `examples` training images; together they cover every step once.

    >>> from tpu_train.recipes.table import find_recipe
    >>> [phase.image_size for phase in make_phases(find_recipe("efficientnetv2-s"), 1_281_167)]
    [128, 185, 242, 300]
    """
    count, freezes = recipe.phases, recipe.freeze.split(",")
    phases, first_step, first_example, first_unlabeled = [], 0, 0, 0
    for i in range(count):
        batch_size = _batch_size(recipe, i)
        steps = (_end_epoch(recipe, i) * examples - first_example) / batch_size
        # main.py: epochs * images // batch
        rounds = i == count - 1 and recipe.progressive_schedule != "code"
        end_step = first_step + max(1, round(steps) if rounds else int(steps))
        if recipe.min_steps:
            end_step = max(end_step, round(recipe.min_steps * (i + 1) / count))
        image_size = _image_size(recipe, i)
        position = _ramp_position(recipe, i, image_size)
        phases.append(
            Phase(
                number=i + 1,
                first_step=first_step,
                end_step=end_step,
                first_example=first_example,
                batch_size=batch_size,
                accumulation=_accumulation(recipe, i),
                image_size=image_size,
                magnitude=ramp(
                    recipe.randaugment_magnitude_first, recipe.randaugment_magnitude_last, *position
                ),
                mixup=ramp(recipe.mixup_first, recipe.mixup_last, *position),
                cutmix=ramp(recipe.cutmix_first, recipe.cutmix_last, *position),
                dropout_rate=ramp(recipe.dropout_first, recipe.dropout_last, *position),
                drop_path_rate=ramp(recipe.drop_path_first, recipe.drop_path_last, *position),
                freeze=freezes[min(i, len(freezes) - 1)],
                warms_up=0 < i < len(freezes) and freezes[i] != freezes[i - 1],
                unlabeled=_unlabeled(recipe, batch_size),
                first_unlabeled=first_unlabeled,
            )
        )
        first_example += (end_step - first_step) * batch_size
        first_unlabeled += (end_step - first_step) * phases[-1].unlabeled
        first_step = end_step
    return tuple(phases)


def extend_phases(
    phases: Sequence[Phase], recipe: Recipe, examples: int, epochs: float
) -> tuple[Phase, ...]:
    """The phases of a finished run, and one more with the last one's settings, up to `epochs`.

    >>> from tpu_train.recipes.table import find_recipe
    >>> recipe = find_recipe("finetune")
    >>> phases = extend_phases(make_phases(recipe, 6400), recipe, 6400, recipe.epochs + 10)
    >>> phases[-1].number, phases[-1].end_step - phases[-1].first_step
    (2, 2000)
    """
    last = phases[-1]
    first_example = last.first_example + (last.end_step - last.first_step) * last.batch_size
    steps = max(1, round((epochs * examples - first_example) / last.batch_size))
    more = dataclasses.replace(
        last,
        number=last.number + 1,
        warms_up=False,
        first_step=last.end_step,
        end_step=last.end_step + steps,
        first_example=first_example,
        first_unlabeled=last.first_unlabeled + (last.end_step - last.first_step) * last.unlabeled,
    )
    return (*phases, more)


def ramp(first: float, last: float, i: int, n: int) -> float:
    """The value at position `i` of `n` (from 0) of a linear ramp; exactly `first` and `last` at
    its ends.

    >>> [ramp(128, 300, i, 4) for i in range(4)]
    [128.0, 185.33333333333334, 242.66666666666666, 300.0]
    """
    if n == 1 or first == last:  # without rounding
        return float(last)
    return (first * (n - 1 - i) + last * i) / (n - 1)


def checked_phases(recipe: Recipe, replicas: int, examples: int) -> tuple[Phase, ...]:
    """:func:`make_phases`; ``ValueError`` if a batch does not divide over the replicas."""
    phases = make_phases(recipe, examples)
    for phase in phases:
        error = batch_size_error(recipe, phase, replicas)
        if error:
            raise ValueError(f"phase {phase.number}: {error}")
    return phases


def batch_norm_warning(recipe: Recipe, phases: Sequence[Phase]) -> str:
    """What to do about batch-norm statistics of few images; "" if there are enough or none."""
    images = min(phase.images // phase.accumulation for phase in phases)
    images = min(images, recipe.batch_norm_group_size or images)
    if all(_freezes_batch_norm(phase) for phase in phases) or images >= _BATCH_NORM_IMAGES:
        return ""
    return (
        f"warning: batch norm computes its statistics from {images} images, which is noisy below "
        f"{_BATCH_NORM_IMAGES}: raise --batch_size (smaller images leave memory for it: "
        "--image_size_last), use fewer gradient-accumulation steps, set --batch_norm_group_size=0, "
        "or, from pretrained weights, give --freeze=batch_norm"
    )


def _freezes_batch_norm(phase):
    return not {"batch_norm", "backbone"}.isdisjoint(phase.freeze.split("+"))


def batch_size_error(recipe: Recipe, phase: Phase, replicas: int) -> str:
    """Why the batch of a phase does not divide over the replicas, and which sizes do; "" if it
    divides.

    Each replica needs the same number of images in every accumulation step, an even number where
    mixup or CutMix pairs neighbors, and complete groups of batch normalization.
    """
    pairs = phase.mixup > 0 or phase.cutmix > 0
    unit = replicas * phase.accumulation * (2 if pairs else 1)
    group = recipe.batch_norm_group_size
    if phase.images % unit:
        steps = (
            f" in {phase.accumulation} gradient-accumulation steps"
            if phase.accumulation > 1
            else ""
        )
        unlabeled = f" with {phase.unlabeled} pseudo-labeled images" if phase.unlabeled else ""
        return (
            f"batch_size {phase.batch_size}{unlabeled} does not divide over {replicas} replicas"
            f"{steps}{', in pairs for mixup and CutMix' if pairs else ''}; try "
            f"{' or '.join(map(str, _divisible(recipe, phase.batch_size, unit)))}"
        )
    local = phase.images // (replicas * phase.accumulation)
    divides = group % local == 0 if group > local else not group or local % group == 0
    if group < local * replicas and not divides:
        return (
            f"batch_norm_group_size {group} does not divide the {local} images that a replica "
            f"computes at once; try {local} or 0"
        )
    if local < group < local * replicas and (local * replicas) % group:
        return (
            f"batch_norm_group_size {group} does not divide {local * replicas} images; try "
            f"{local} or 0"
        )
    return ""


def accumulations(recipe: Recipe, phase: Phase, replicas: int) -> list[int]:
    """The numbers of gradient-accumulation steps in which the batch of a phase can be computed.

    >>> from tpu_train.recipes.table import find_recipe
    >>> phase = Phase(1, 0, 10, 0, 24, 1, 32, 0.0, 0.2, 0.0, 0.0, 0.0, "none")
    >>> accumulations(find_recipe("digits"), phase, replicas=2)
    [1, 2, 3, 6]
    """
    steps = (n for n in range(1, phase.images // replicas + 1) if not phase.images % (replicas * n))
    phases = [dataclasses.replace(phase, accumulation=n) for n in steps]
    return [p.accumulation for p in phases if not batch_size_error(recipe, p, replicas)]


def rows_of(replica, accumulation_step, phase: Phase, replicas: int):
    """(first row, number of rows) of the global batch that a replica computes in one
    accumulation step.

    An accumulation step has consecutive rows over all replicas, so the images that share batch
    normalization statistics do not depend on the number of replicas. `replica` and
    `accumulation_step` are integers, or integer tensors, from 0.

    >>> phase = Phase(1, 0, 10, 0, 16, 2, 32, 0.0, 0.0, 0.0, 0.0, 0.0, "none")
    >>> [rows_of(replica, 0, phase, replicas=4) for replica in range(4)]
    [(0, 2), (2, 2), (4, 2), (6, 2)]
    >>> rows_of(3, 1, phase, replicas=4)
    (14, 2)
    """
    rows = phase.images // (replicas * phase.accumulation)
    return (accumulation_step * replicas + replica) * rows, rows


def random_settings(recipe: Recipe, phase: Phase) -> list[str]:
    """The settings by which a phase shows an image differently in every epoch.

    >>> from tpu_train.recipes.table import find_recipe
    >>> recipe = find_recipe("digits")
    >>> random_settings(recipe, make_phases(recipe, 100)[0])
    ['random_crop_min_area', 'augment']
    """
    policy = {"none": False, "randaugment": phase.magnitude and recipe.randaugment_layers}
    draws = {
        "random_crop_min_area": recipe.random_crop_min_area < 1,
        "flip": recipe.flip,
        "vertical_flip": recipe.vertical_flip,
        "quarter_turns": recipe.quarter_turns,
        "color_jitter": recipe.color_jitter,
        "augment": policy.get(recipe.augment, True),
        "cutout": recipe.cutout,
        "random_erasing_prob": recipe.random_erasing_prob,
        "mixup": phase.mixup,
        "cutmix": phase.cutmix,
    }
    return [name for name, draw in draws.items() if draw]


def _end_epoch(recipe, i):
    """The epoch that phase `i` ends at.

    The official code ends phases at integer epochs (main_tf2.py; main.py: at the same fraction of
    the steps).
    """
    end = recipe.epochs * (i + 1) / recipe.phases
    truncate = (
        recipe.progressive_schedule == "code"
        and i + 1 < recipe.phases
        and recipe.epochs >= recipe.phases
    )
    return int(end) if truncate else end


def _image_size(recipe, i):
    first, last, n = recipe.image_size_first, recipe.image_size_last, recipe.phases
    if recipe.progressive_schedule == "random":
        size = random.Random(f"{recipe.seed} {i}").randint(min(first, last), max(first, last))
    elif recipe.progressive_schedule == "code":
        size = int(first + (last - first) * (i + 1) / n)  # main.py: ibase, stage, total
    else:
        size = int(ramp(first, last, i, n))
    multiple = recipe.image_size_multiple
    if multiple == 1:
        return size
    return max(-(-MIN_IMAGE_SIZE // multiple), round(size / multiple)) * multiple


def _ramp_position(recipe, i, image_size):
    """(position, number of positions) of phase `i` on the ramps of regularization.

    By the phase's number, or for random image sizes by the size (the paper's Table 13).
    """
    if recipe.progressive_schedule != "random":
        return i, recipe.phases
    first, last = recipe.image_size_first, recipe.image_size_last
    clipped = min(max(image_size, min(first, last)), max(first, last))
    return abs(clipped - first), abs(last - first) + 1


def _batch_size(recipe, i):
    """On the ramp between both ends, a multiple of their greatest common divisor."""
    first, last = recipe.batch_size_first or recipe.batch_size, recipe.batch_size
    unit = math.gcd(first, last)
    return int(ramp(first, last, i, recipe.phases) / unit) * unit


def _unlabeled(recipe, batch_size):
    """The number of pseudo-labeled images of a step; at least one, unless there are none."""
    ratio = recipe.unlabeled_ratio
    return max(1, round(ratio * batch_size)) if ratio else 0


def _divisible(recipe, batch_size, unit):
    """The largest batch size below `batch_size`, and the least above, of which `unit` divides all
    images of a step.
    """
    sizes = range(1, batch_size + 2 * unit)
    sizes = [n for n in sizes if (n + _unlabeled(recipe, n)) % unit == 0]
    below, above = ([n for n in sizes if (n < batch_size) == small] for small in (True, False))
    return [*below[-1:], *above[:1]]


def _accumulation(recipe, i):
    """On the ramp between both ends, rounded up to a power of two between them."""
    first, last = recipe.gradient_accumulation_first, recipe.gradient_accumulation_last
    if i in (0, recipe.phases - 1) or first == last:
        return last if i or recipe.phases == 1 else first
    steps = ramp(first, last, i, recipe.phases)
    return min(max(first, last), 1 << math.ceil(math.log2(steps)))


def show(phases: tuple[Phase, ...]) -> str:
    """The phases as an aligned table; ``batch/n`` is a batch in n accumulation steps, and ``n+m``
    are n labeled and m pseudo-labeled images.

    A column states what does not train, if that is anything.
    """
    freezes = "".join({p.freeze for p in phases} - {"none"})
    width = max(7, *(len(_batch_text(p)) + 1 for p in phases))
    lines = [
        f"{'phase':>5}{'steps':>16}{'batch':>{width}}{'image size':>12}{'magnitude':>11}"
        f"{'mixup':>7}{'cutmix':>8}{'dropout':>9}{'drop path':>11}{freezes and '  freeze'}"
    ]
    for p in phases:
        lines.append(
            f"{p.number:>5}{f'{p.first_step}-{p.end_step - 1}':>16}"
            f"{_batch_text(p):>{width}}{p.image_size:>12}{p.magnitude:>11.2f}"
            f"{p.mixup:>7.2f}{p.cutmix:>8.2f}{p.dropout_rate:>9.3f}{p.drop_path_rate:>11.3f}"
            f"{freezes and f'  {p.freeze}'}"
        )
    return "\n".join(lines)


def _batch_text(phase):
    unlabeled = f"+{phase.unlabeled}" if phase.unlabeled else ""
    accumulation = f"/{phase.accumulation}" if phase.accumulation > 1 else ""
    return f"{phase.batch_size}{unlabeled}{accumulation}"
