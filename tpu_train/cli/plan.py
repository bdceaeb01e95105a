"""``effnet-train plan --recipe=efficientnetv2-m-paper --topology=v5e:2x4``: does it fit a TPU?

Compiles the train step of every phase with the TPU's own compiler, on a machine without a TPU. The
exit status is 0 if every phase fits, 1 if one does not, 2 for bad input.
"""

import os
import sys

from absl import flags

from tpu_train.cli import recipe_flags

_INTRODUCTION = """Compiles the train step of every phase for a TPU, on a machine without one.

  effnet-train plan --recipe=efficientnetv2-m-paper --topology=v5e:2x4

A compilation takes two minutes for B0 on two cores, and longer for larger networks."""


def main(argv):
    """Prints the plan of a recipe on a topology; returns the exit status."""
    try:
        values = define()
        if not recipe_flags.parse(values, "effnet-train plan", argv, _INTRODUCTION):
            return 0
        return _plan(recipe_flags.chosen(values), values)
    except (flags.Error, ValueError) as error:
        print(f"effnet-train plan: {error}", file=sys.stderr)
        return 2


def define():
    """All flags, of their own: where-flags by hand, the rest from the fields of a recipe."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_string("topology", "v5e:2x4", "of the TPU: its kind and its chips", **own)
    flags.DEFINE_list("phase", "", "numbers of the phases to compile; all if not given", **own)
    flags.DEFINE_boolean(
        "search",
        True,
        "look for the largest batch that fits: two to eight compilations more a phase",
        **own,
    )
    flags.DEFINE_integer("classes", 1000, "that the network tells apart", **own)
    flags.DEFINE_integer("examples", 1_281_167, "training images", **own)
    flags.DEFINE_string("cache", None, "folder that keeps what was compiled, for next time", **own)
    recipe_flags.define(values)
    return values


def _plan(recipe, values):
    numbers = []
    for number in values.phase:
        if not number.isdigit():
            raise ValueError(f"--phase={number}: give numbers of phases, e.g. --phase=1,4")
        numbers.append(int(number))
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing runs: TensorFlow only traces
    from tpu_train.tpu_compile import plan  # here, so that --help does not wait

    topology = plan.open_topology(values.topology)
    plans = list(
        plan.plan(
            recipe,
            topology,
            classes=values.classes,
            examples=values.examples,
            numbers=numbers,
            search=values.search,
            cache=values.cache,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    print(f"{recipe.name}: {recipe.model}, {recipe.precision}, {recipe.optimizer}")
    print(plan.show(plans, topology))
    return 0 if all(p.step.fits for p in plans) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
