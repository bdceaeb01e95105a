"""``effnet-train preview --recipe=photos --data=my_photos``: draws augmented training images.

The exit status is 0 if the picture was written, 2 for bad input.
"""

import os
import sys

from absl import flags

from tpu_train.cli import command, data_flags, outputs, recipe_flags
from tpu_train.input_pipeline.picture_path import check_picture

INTRODUCTION = """Draws the first training images of every phase: cropped, augmented and mixed.

  effnet-train preview --recipe=photos --data=my_photos --out=preview.png

Recipe flags change one setting of the recipe."""

GROUPS = {
    "data": (
        "effnet-train preview --data=my_photos --holdout=0.1",
        ("data", "holdout", "max_corrupt", "on_duplicates"),
    ),
    "picture": (
        "effnet-train preview --recipe=photos --data=my_photos --out=preview.png",
        ("recipe", "out", "images"),
    ),
}


def main(argv=None):
    """Draws the images of a recipe on a data set; returns the exit status."""
    return command.run("effnet-train preview", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    recipe = recipe_flags.chosen(values)
    manifest = data_flags.check(values, "effnet-train preview")
    check_picture(values.out, values.images)
    outputs.check_picture(values.out)
    return _draw(recipe, values, manifest)


def define():
    """The flags of the command: data, output, and the fields of a recipe."""
    values = flags.FlagValues()
    data_flags.define(values)
    flags.DEFINE_string("out", "preview.png", "output picture (.png)", flag_values=values)
    flags.DEFINE_integer(
        "images", 8, "number of images of each phase; an even number", flag_values=values
    )
    recipe_flags.define(values)
    return values


def _draw(recipe, values, manifest):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the input pipeline runs on the CPU, as in training
    from tpu_train.input_pipeline.data_loading import open_data, open_path  # here: fast --help
    from tpu_train.input_pipeline.preview import draw_preview

    training, _ = open_data(
        values.data,
        dataset=open_path(values.data, manifest),
        holdout=values.holdout,
        seed=recipe.seed,
        max_corrupt=values.max_corrupt,
        on_duplicates=values.on_duplicates,
    )
    data_flags.print_notes(training)
    draw_preview(recipe, training, values.out, images=values.images)
    print(values.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
