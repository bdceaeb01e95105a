"""``effnet-train prepare --data=my_photos --out=my_shards``: images -> verified TFRecord shards.

``effnet-train prepare --check --data=my_shards`` verifies a folder of shards, and writes nothing.
The exit status is 0 when all is well, 1 when a disk or a shard is not, 2 for bad input.
"""

import sys

from absl import flags

from tpu_train.cli import data_flags


def main(argv=None):
    """Prepares, or checks; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        values = _parse(argv)
        if values is None:
            return 0
        return _check(values) if values.check else _prepare(values)
    except (flags.Error, ValueError) as error:
        print(f"effnet-train prepare: {error}", file=sys.stderr)
        return 2


def _parse(argv):
    values = flags.FlagValues()
    own = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string("out", None, "folder for the shards: new, or one to go on with", **own)
    flags.DEFINE_integer("shards", 0, "of the training images; 0 for one every 1,250 images", **own)
    flags.DEFINE_float(
        "minival", 0, "training images to set aside: a share below 1, or how many", **own
    )
    flags.DEFINE_integer("seed", 0, "of what is held out, and of the order in the shards", **own)
    flags.DEFINE_boolean("check", False, "verify the shards in --data, write nothing", **own)
    flags.DEFINE_boolean("help", False, "print this", short_name="h", **own)
    rest = values(["effnet-train prepare", *argv])[1:]
    if values.help:
        print(__doc__)
        print(values.get_help())
        return None
    if rest:
        raise flags.Error(f"{rest[0]!r} is no flag: write --flag=value")
    if not values.data:
        raise flags.Error("--data is missing; see effnet-train prepare --help")
    if bool(values.out) == values.check:
        raise flags.Error("give --out for what is written, or --check, and not both")
    return values


def _prepare(values):
    from tpu_train.input_pipeline.tfrecord_writer import (  # here: --help does not wait
        PrepareError,
        prepare,
        summary,
    )

    try:
        prepared = prepare(
            values.data,
            values.out,
            shard_count=values.shards,
            minival=values.minival,
            holdout=values.holdout,
            seed=values.seed,
            max_corrupt=values.max_corrupt,
        )
    except PrepareError as error:
        print(f"effnet-train prepare: {error}", file=sys.stderr)
        return 1
    print(summary(prepared))
    return 0


def _check(values):
    from tpu_train.input_pipeline.tfrecord_writer import check

    checked = check(values.data)
    for problem in checked.problems:
        print(problem)
    sums = "checksums" if checked.has_index else "checksums (there is no index, so no SHA-256)"
    print(
        f"{values.data}: {checked.images:,} images in {checked.shards:,} shards decoded, {sums} "
        f"verified: {len(checked.problems) or 'no'} problem{'s' * (len(checked.problems) != 1)}"
    )
    return int(bool(checked.problems))


if __name__ == "__main__":
    sys.exit(main())
