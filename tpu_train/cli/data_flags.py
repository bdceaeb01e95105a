"""Flags that select the images of a command."""

from absl import flags


def define(values):
    """Adds ``--data``, ``--holdout`` and ``--max_corrupt`` to absl's `values`."""
    own = {"flag_values": values}
    flags.DEFINE_string(
        "data",
        None,
        "folder of class folders or of TFRecord shards, a .csv, .json or .npz file, or tfds:NAME",
        **own,
    )
    flags.DEFINE_float(
        "holdout",
        0.2,
        "fraction of each class for evaluation, if the data has no such split",
        **own,
    )
    flags.DEFINE_integer("max_corrupt", 10, "undecodable images that are skipped, at most", **own)
