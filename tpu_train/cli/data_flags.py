"""The flags that say what images a command takes."""

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
        "holdout", 0.2, "share of each class for evaluation, where the data has no such part", **own
    )
    flags.DEFINE_integer("max_corrupt", 10, "images that may be undecodable and are skipped", **own)
