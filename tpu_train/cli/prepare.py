"""``effnet-train prepare --data=my_photos --out=my_shards``: writes verified TFRecord shards.

``effnet-train prepare --check --data=my_shards`` verifies shards and writes nothing. The exit
status is 0 on success, 1 for a failing disk or corrupt shards, 2 for bad input, and 75 after
Ctrl-C: the same command resumes.
"""

import math
import sys

from absl import flags

from tpu_train.cli import command, data_flags, outputs

INTRODUCTION = """Writes verified TFRecord shards of images, or verifies existing ones.

  effnet-train prepare --data=my_photos --out=my_shards"""

GROUPS = {
    "data": (
        "effnet-train prepare --data=my_photos --out=my_shards --holdout=0.1",
        ("data", "holdout", "minival", "seed", "max_corrupt", "on_duplicates"),
    ),
    "write shards": (
        "effnet-train prepare --data=my_photos --out=my_shards --workers=2",
        ("out", "shards", "workers", "runner", "beam_argument"),
    ),
    "verify shards": ("effnet-train prepare --data=my_shards --check", ("check",)),
}


def main(argv=None):
    """Writes or verifies shards; returns the exit status."""
    return command.run("effnet-train prepare", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    if values.data and bool(values.out) == values.check:
        raise ValueError("give either --out (to write shards) or --check (to verify them)")
    if not math.isfinite(values.minival):
        raise ValueError(f"minival must be a number, got {values.minival}")
    if values.runner and values.workers > 1:
        raise ValueError("give --workers or --runner: a runner has its own workers")
    data_flags.check(values, "effnet-train prepare")
    if values.check:
        return _check(values)
    outputs.check_folder("out", values.out, values.data)
    return command.resumable(_prepare, values, " at the first missing shard")


def define():
    """The flags of the command."""
    values = flags.FlagValues()
    common = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string("out", None, "output folder: new, or incomplete to resume", **common)
    flags.DEFINE_integer(
        "shards",
        0,
        "number of train shards; 0 for one every 1,250 images",
        lower_bound=0,
        **common,
    )
    flags.DEFINE_float(
        "minival",
        0,
        "training images for a minival split: a fraction below 1, or a number",
        lower_bound=0,
        **common,
    )
    flags.DEFINE_integer(
        "seed", 0, "seed of the held-out images and of the record order", lower_bound=0, **common
    )
    flags.DEFINE_integer("workers", 1, "processes that write shards", lower_bound=1, **common)
    flags.DEFINE_string(
        "runner", "", "Apache Beam runner that writes the shards: DirectRunner, ...", **common
    )
    flags.DEFINE_multi_string(
        "beam_argument", [], "argument of this runner, e.g. --region=...; repeatable", **common
    )
    flags.DEFINE_boolean("check", False, "verify the shards in --data, write nothing", **common)
    return values


def _prepare(values):
    from tpu_train.input_pipeline.tfrecord_shard import PrepareError  # here: --help stays fast
    from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, summary, write_shards

    options = WriterOptions(
        shard_count=values.shards,
        minival=values.minival,
        holdout=values.holdout,
        seed=values.seed,
        max_corrupt=values.max_corrupt,
        on_duplicates=values.on_duplicates,
        workers=values.workers,
        runner=values.runner,
        beam_arguments=tuple(values.beam_argument),
    )
    try:
        result = write_shards(values.data, values.out, options)
    except PrepareError as error:
        print(f"effnet-train prepare: {error}", file=sys.stderr)
        return 1
    print(summary(result))
    return 0


def _check(values):
    from tpu_train.input_pipeline.tfrecord_verification import verify_shards

    result = verify_shards(values.data)
    for problem in result.problems:
        print(problem)
    checksums = "checksums" if result.has_index else "checksums (without SHA-256: no index)"
    print(
        f"{values.data}: {result.images:,} images in {result.shards:,} shards decoded, {checksums} "
        f"verified: {len(result.problems) or 'no'} problem{'s' * (len(result.problems) != 1)}"
    )
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
