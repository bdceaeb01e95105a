"""``effnet-train gallery --recipe=photos --data=my_photos``: what the network gets to see.

The exit status is 0 when the picture is written, 2 for bad input.
"""

import os
import sys

from absl import flags

from tpu_train.cli import data_flags, recipe_flags

_INTRODUCTION = """Draws the first training images of every phase, cropped, augmented and mixed.

  effnet-train gallery --recipe=photos --data=my_photos --out=gallery.png"""


def main(argv):
    """Draws the gallery of a recipe on a data set; returns the exit status."""
    try:
        values = define()
        if not recipe_flags.parse(values, "effnet-train gallery", argv, _INTRODUCTION):
            return 0
        recipe = recipe_flags.chosen(values)
        if not values.data:
            raise ValueError("--data is missing; see effnet-train gallery --help")
        return _draw(recipe, values)
    except (flags.Error, ValueError) as error:
        print(f"effnet-train gallery: {error}", file=sys.stderr)
        return 2


def define():
    """All flags, of their own: where-flags by hand, the rest from the fields of a recipe."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    data_flags.define(values)
    flags.DEFINE_string("out", "gallery.png", "the picture", **own)
    flags.DEFINE_integer("images", 8, "in a row, an even number", **own)
    recipe_flags.define(values)
    return values


def _draw(recipe, values):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the pictures are made where a run's are, on the CPU
    from tpu_train.input_pipeline.data_loading import open_data
    from tpu_train.input_pipeline.preview import draw_gallery  # here, so that --help does not wait

    training, _ = open_data(
        values.data, holdout=values.holdout, seed=recipe.seed, max_corrupt=values.max_corrupt
    )
    draw_gallery(recipe, training, values.out, images=values.images)
    print(values.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
