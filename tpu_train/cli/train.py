"""``effnet-train --recipe=photos --data=my_photos --workdir=run1``: flags, and nothing else.

The exit status is 0 after a whole run, 1 for one that failed, 2 for bad input, and 75 for one that
was stopped (Ctrl-C, SIGTERM, --stop_after, a preemption notice) and saved: the same command goes
on.
"""

import dataclasses
import sys

from absl import flags

from tpu_train import phases, recipes

STOPPED = 75  # EX_TEMPFAIL: try again
_NOT_FLAGS = ("name", "source")  # of a recipe


def main(argv=None):
    """Trains, or shows a recipe; returns the exit status."""
    argv = sys.argv if argv is None else ["effnet-train", *argv]
    try:
        values = parse(argv)
        if values is None:
            return 0
        recipe = chosen_recipe(values)
        if values.show:
            print(recipes.show(recipe))
            print()
            print(phases.show(phases.phases(recipe, values.examples)))
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
    flags.DEFINE_string("recipe", "photos", f"a row: {', '.join(recipes.RECIPES)}", **own)
    flags.DEFINE_string(
        "data",
        None,
        "folder of class folders or of TFRecord shards, a .csv, .json or .npz file, or tfds:NAME",
        **own,
    )
    flags.DEFINE_string("workdir", None, "where model, curves and metrics go", **own)
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count], cpu[:count] or multi-worker", **own
    )
    flags.DEFINE_float("holdout", 0.2, "share of each class held out for evaluation", **own)
    flags.DEFINE_integer("max_corrupt", 10, "images that may be undecodable and are skipped", **own)
    flags.DEFINE_boolean("overwrite", False, "replace a run in workdir", **own)
    flags.DEFINE_float(
        "eval_epochs", 0.0, "between evaluations; 0: at the ends of phases alone", **own
    )
    flags.DEFINE_string(
        "stop_after", "", "save and stop after so long, e.g. 11h or 90m: a session's limit", **own
    )
    flags.DEFINE_enum(
        "on_nan",
        "stop",
        ["stop", "skip"],
        "when the loss is no number: stop, or go back to the "
        "last checkpoint and skip the steps that made it so",
        **own,
    )
    flags.DEFINE_float("save_minutes", 10.0, "between checkpoints inside a phase", **own)
    flags.DEFINE_boolean("show", False, "print the recipe and its phases, train nothing", **own)
    flags.DEFINE_integer("examples", 10_000, "training images that --show reckons with", **own)
    flags.DEFINE_boolean("help", False, "print this", short_name="h", **own)
    define_one = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
    }
    for field in dataclasses.fields(recipes.Recipe):
        if field.name not in _NOT_FLAGS:
            define_one[field.type](field.name, None, f"(recipe) {field.metadata['help']}", **own)
    return values


def parse(argv):
    """The flags of a command line; None after printing the help. Raises ``flags.Error``."""
    values = define()
    rest = values(argv)[1:]
    if values.help:
        print("Trains an EfficientNet with progressive learning.\n")
        print("  effnet-train --recipe=photos --data=my_photos --workdir=run1\n")
        print("Flags marked (recipe) change one number of the recipe; --show prints them all.")
        print(values.get_help())
        return None
    if rest:
        raise flags.Error(f"{rest[0]!r} is no flag: write --flag=value")
    return values


def chosen_recipe(values):
    """The row that --recipe names, with the numbers that other flags change."""
    recipe = recipes.find_recipe(values.recipe)
    changes = {
        field.name: values[field.name].value
        for field in dataclasses.fields(recipe)
        if field.name not in _NOT_FLAGS and values[field.name].value is not None
    }
    recipe = dataclasses.replace(recipe, **changes)
    recipes.check(recipe)
    return recipe


def _train(recipe, values):
    from tpu_train.devices import make_strategy
    from tpu_train.interrupts import interrupts, parse_duration
    from tpu_train.saves import StoppedError
    from tpu_train.sources import open_data  # here, so that --show and --help do not wait
    from tpu_train.train import TrainingError, train

    stop_after = parse_duration(values.stop_after) if values.stop_after else 0.0
    strategy = make_strategy(values.device)  # before any other TensorFlow call
    training, evaluation = open_data(
        values.data, holdout=values.holdout, seed=recipe.seed, max_corrupt=values.max_corrupt
    )
    for path in training.skipped:
        print(f"skipped, cannot be decoded: {path}", file=sys.stderr)
    try:
        with interrupts(stop_after) as stop:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
