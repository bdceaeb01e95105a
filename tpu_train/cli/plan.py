"""``effnet-train plan --recipe=efficientnetv2-m-paper --topology=v5e:2x4``: does it fit a TPU?

Compiles the train step of every phase with the TPU compiler, on a machine without a TPU. The exit
status is 0 if every phase fits, 1 if one does not, 2 for bad input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from absl import flags

from tpu_train.cli import command, recipe_flags
from tpu_train.tpu_compile.topology import check_topology
from tpu_train.training.model_source import check_teacher

INTRODUCTION = """Compiles the train step of every phase for a TPU, on a machine without one.

  effnet-train plan --recipe=efficientnetv2-m-paper --topology=v5e:2x4

One compilation takes two minutes for B0 on two cores, and longer for larger
networks. Recipe flags change one setting of the recipe."""

GROUPS = {
    "what to compile": (
        "effnet-train plan --recipe=photos --topology=v5e:2x4 --phase=1,4",
        ("recipe", "topology", "phase", "classes", "examples"),
    ),
    "search": (
        "effnet-train plan --recipe=photos --nosearch --cache=plans",
        ("search", "cache"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the compile plan of a recipe on a topology; returns the exit status."""
    return command.run("effnet-train plan", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    return _plan(recipe_flags.chosen(values), values)


def define() -> flags.FlagValues:
    """All flags in a new ``FlagValues``: those of this command and one for each recipe field."""
    values = flags.FlagValues()
    here = {"flag_values": values}
    flags.DEFINE_string("topology", "v5e:2x4", "TPU generation and chip layout", **here)
    flags.DEFINE_list("phase", "", "numbers of the phases to compile (default: all)", **here)
    flags.DEFINE_boolean(
        "search",
        True,
        "search for the largest batch that fits: two to eight more compilations per phase",
        **here,
    )
    flags.DEFINE_integer("classes", 1000, "number of classes", lower_bound=1, **here)
    flags.DEFINE_integer("examples", 1_281_167, "number of training images", lower_bound=1, **here)
    flags.DEFINE_string("cache", None, "folder that stores compilation results for reuse", **here)
    recipe_flags.define(values)
    return values


def _plan(recipe, values):
    numbers = []
    for number in values.phase:
        if not number.isdigit():
            raise ValueError(f"--phase={number} is not a list of phase numbers, e.g. --phase=1,4")
        numbers.append(int(number))
    if recipe.teacher:
        check_teacher("teacher", recipe.teacher)
    check_topology(values.topology)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing runs: TensorFlow only traces
    # Imported here: --help and bad flags must not wait for TensorFlow.
    from tpu_train.tpu_compile import plan
    from tpu_train.tpu_compile.topology import open_topology

    topology = open_topology(values.topology)
    request = plan.PlanRequest(
        recipe, values.classes, values.examples, phases=numbers, search=values.search
    )
    plans = list(plan.plan_phases(request, topology, values.cache, log=_log))
    print(f"{recipe.name}: {recipe.model}, {recipe.precision}, {recipe.optimizer}")
    print(plan.format_plans(plans, topology))
    if recipe.unlabeled_ratio:
        print(
            "Batches count all images of a step, also pseudo-labeled ones: --batch_size is the "
            "part 1 / (1 + unlabeled_ratio)"
        )
    return 0 if all(p.step.fits for p in plans) else 1


def _log(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
