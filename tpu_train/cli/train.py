"""``effnet-train --recipe=photos --data=my_photos --workdir=run1``: flags, and nothing else.

The exit status is 0 after a whole run, 1 for one that failed, 2 for bad input, and 75 for one that
was stopped (Ctrl-C, SIGTERM, --stop_after, a preemption notice) and saved: the same command goes
on.
"""

import sys

from absl import flags

from tpu_train.cli import data_flags, recipe_flags
from tpu_train.recipes import phases
from tpu_train.recipes.schema import show

STOPPED = 75  # EX_TEMPFAIL: try again
_INTRODUCTION = """Trains an EfficientNet with progressive learning.

  effnet-train --recipe=photos --data=my_photos --workdir=run1
  effnet-train --recipe=efficientnetv2-s-paper --show       # prints numbers and phases, no more

Other commands: effnet-train prepare | preview | plan | doctor, each with --help."""


def main(argv=None):
    """Trains, or shows a recipe; returns the exit status. `argv` is without the program's name."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        values = define()
        if not recipe_flags.parse(values, "effnet-train", argv, _INTRODUCTION):
            return 0
        recipe = recipe_flags.chosen(values)
        if values.show:
            print(show(recipe))
            print()
            print(phases.show(phases.make_phases(recipe, values.examples)))
            print(f"for {values.examples} training images (--examples=...)")
            return 0
        for what in ("data", "workdir"):
            if not getattr(values, what):
                raise ValueError(f"--{what} is missing; see effnet-train --help")
        return _train(recipe, values)
    except (flags.Error, ValueError) as error:
        print(f"effnet-train: {error}", file=sys.stderr)
        return 2


def define():
    """All flags, of their own: where-flags by hand, the rest from the fields of a recipe."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string("workdir", None, "where model, curves and metrics go", **own)
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker", **own
    )
    flags.DEFINE_boolean("overwrite", False, "replace a run in workdir", **own)
    flags.DEFINE_float(
        "eval_epochs", 0.0, "between evaluations; 0: at the ends of phases alone", **own
    )
    flags.DEFINE_string(
        "stop_after", "", "save and stop after so long, e.g. 11h or 90m: a session's limit", **own
    )
    flags.DEFINE_string(
        "on_nan",
        "stop",
        "when the loss is no number: stop, or skip (back to the last checkpoint, on without the "
        "steps that made it so)",
        **own,
    )
    flags.DEFINE_boolean("keep_checkpoints", False, "also when the run is through", **own)
    flags.DEFINE_float("save_minutes", 10.0, "between checkpoints inside a phase", **own)
    flags.DEFINE_boolean("show", False, "print the recipe and its phases, train nothing", **own)
    flags.DEFINE_integer("examples", 10_000, "training images that --show reckons with", **own)
    recipe_flags.define(values)
    return values


def _train(recipe, values):
    from tpu_train.checkpointing.manager import StoppedError
    from tpu_train.checkpointing.preemption import interrupts, parse_duration
    from tpu_train.input_pipeline.data_loading import (
        open_data,  # here, so that --show and --help do not wait
    )
    from tpu_train.training.distribution import make_strategy
    from tpu_train.training.run import TrainingError, train

    stop_after = parse_duration(values.stop_after) if values.stop_after else 0.0
    strategy = make_strategy(values.device)  # before any other TensorFlow call
    try:
        with interrupts(stop_after) as stop:  # its clock runs from here
            training, evaluation = open_data(
                values.data,
                holdout=values.holdout,
                seed=recipe.seed,
                max_corrupt=values.max_corrupt,
            )
            for path in training.skipped:
                print(f"skipped, cannot be decoded: {path}", file=sys.stderr)
            result = train(
                recipe,
                training,
                evaluation,
                values.workdir,
                strategy,
                overwrite=values.overwrite,
                save_minutes=values.save_minutes,
                eval_epochs=values.eval_epochs,
                on_nan=values.on_nan,
                keep_checkpoints=values.keep_checkpoints,
                stop=stop,
            )
    except TrainingError as error:
        print(f"effnet-train: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        print(f"effnet-train: {error}", file=sys.stderr)
        return STOPPED
    print(
        f"held-out accuracy {result.accuracy:.2%} after {result.seconds:.0f} s; "
        f"model {result.model_path}, curves {result.curves_path}"
    )
    if result.best["averaged"] > result.accuracy:
        print(
            f"it was {result.best['averaged']:.2%} after step {result.best['step']}: "
            f"{result.best_path}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
