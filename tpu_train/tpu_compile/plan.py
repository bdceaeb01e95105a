"""Compile plan of a recipe: every phase's train step, compiled for a TPU on a machine without one.

The step is the trainer's own (:mod:`tpu_train.training.step`). :mod:`.lowering` traces it to
StableHLO, :mod:`.compiler` compiles that with libtpu for a topology that need not be present.
Memory, FLOPs and HBM traffic are those of the program that a TPU would run; time is unknown, so a
roofline stands in for it. docs/tpu-plan.md explains the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tpu_train.recipes.phases import batch_size_error, checked_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.tpu_compile.batch_search import BATCHES, largest_batch
from tpu_train.tpu_compile.compiled_step import CompiledStep, compile_step, roofline_seconds
from tpu_train.tpu_compile.lowering import build_training, lower_step
from tpu_train.tpu_compile.topology import Topology

_GIB = 2**30


@dataclass(frozen=True)
class PlanRequest:
    """What to compile: a recipe's training on a data set, or only some of its phases."""

    recipe: Recipe
    classes: int
    examples: int  # training images
    phases: Sequence[int] = ()  # numbers, counted from 1; empty: all phases
    search: bool = True  # search for the largest batch, with a few more compilations per phase


@dataclass(frozen=True)
class PhasePlan:
    """One phase on a topology: the step with the recipe's batch, and the limits of the batch."""

    number: int
    image_size: int
    step: CompiledStep
    largest: int  # largest batch per core that the compiler accepted; 0 without a search
    refused: int  # smallest batch per core that it refused; 0 if it refused none


def plan_phases(
    request: PlanRequest,
    topology: Topology,
    cache: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[PhasePlan]:
    """Yields a :class:`PhasePlan` for every requested phase.

    `cache` is a folder for compiled results. `log` is called with a line of text before each slow
    operation. Raises ``ValueError`` for a phase that does not exist, a batch that does not divide
    over the cores, and a step that a TPU cannot run.
    """
    recipe, cores = request.recipe, topology.cores
    count = len(checked_phases(recipe, cores, request.examples))
    for number in request.phases:
        if not 1 <= number <= count:
            raise ValueError(f"phase {number}: {recipe.name} has phases 1 to {count}")
    log(f"building {recipe.model}")
    training = build_training(recipe, cores, classes=request.classes, examples=request.examples)
    for phase in training.phases:
        if request.phases and phase.number not in request.phases:
            continue

        def compile_batch(batch, phase=phase):
            log(f"phase {phase.number}: compiling {phase.image_size} px, {batch} images per core")
            return compile_step(lower_step(training, phase, batch), topology, cache)

        step = compile_batch(phase.images // cores)
        largest, refused = 0, 0
        if request.search:
            batches = [
                batch
                for batch in BATCHES
                if not batch_size_error(
                    recipe, dataclasses.replace(phase, batch_size=batch * cores, unlabeled=0), cores
                )
            ]
            largest, refused = largest_batch(compile_batch, topology.hbm_bytes, batches, [step])
        yield PhasePlan(phase.number, phase.image_size, step, largest, refused)


def format_plans(plans: Sequence[PhasePlan], topology: Topology) -> str:
    """The plans as an aligned table, followed by an explanation of its columns."""
    header = ("phase", "image size", "batch/core", "HBM GiB", "TFLOP", "GB moved", "roofline ms")
    rows = [
        (*header, "bound by", "MB all-reduced", "largest batch/core"),
        *(_row(p, topology) for p in plans),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    t = topology
    return (
        "\n".join(lines)
        + f"""

{t.name}: {t.cores} cores, each with {t.hbm_bytes / _GIB:.2f} GiB of usable HBM, \
{t.flops / 1e12:.4g} TFLOP/s (bfloat16) and {t.bytes_per_second / 1e9:.4g} GB/s.
Compiled by libtpu {t.compiler}; nothing was run. All numbers are per core and step.
HBM: arguments (weights, optimizer slots, EMA weights, batch), outputs that are not updated in
place, temporaries and the program.
Roofline: max(FLOPs / peak, bytes moved from and to HBM / bandwidth). It is not a measurement; a
real step is slower.
MB all-reduced: gradients and batch-norm statistics, summed over the cores."""
    )


def _row(p, topology):
    step = p.step
    largest = "not searched"
    if p.largest or p.refused:
        largest = f"{p.largest} ({p.refused} refused)" if p.refused else f"{p.largest} or more"
    wanted = f"{step.hbm_bytes / _GIB:.2f}" if step.hbm_bytes else "?"
    start = (str(p.number), str(p.image_size), str(step.batch))
    if not step.fits:
        return (*start, f"{wanted} > {topology.hbm_bytes / _GIB:.2f}", *"-----", largest)
    seconds = roofline_seconds(step, topology)
    return (
        *start,
        f"{step.hbm_bytes / _GIB:.2f}",
        f"{step.flops / 1e12:.2f}",
        f"{step.moved_bytes / 1e9:.1f}",
        f"{seconds * 1e3:.1f}",
        "FLOPs" if seconds == step.flops / topology.flops else "bytes",
        f"{step.reduced_bytes / 1e6:.1f}",
        largest,
    )
