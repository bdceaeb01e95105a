"""Flags that select the images of a command."""

from __future__ import annotations

import os
import sys

from absl import flags

from keras_effnet.datasets.dataset import ACCEPTED, check_path
from keras_effnet.datasets.holdout import check_holdout
from keras_effnet.datasets.manifests import ENDINGS as MANIFEST_ENDINGS
from keras_effnet.datasets.manifests import ManifestDataset, open_manifest
from keras_effnet.datasets.training_data import ON_DUPLICATES


def define(values):
    """Adds ``--data``, ``--holdout`` and ``--max_corrupt`` to absl's `values`."""
    common = {"flag_values": values}
    flags.DEFINE_string(
        "data",
        None,
        "folder of class folders or of TFRecord shards, a .csv, .json or .npz file, or tfds:NAME "
        "(required)",
        **common,
    )
    flags.DEFINE_float(
        "holdout",
        0.2,
        "fraction of each class for evaluation, if the data has no such split; 0 to train on all",
        **common,
    )
    flags.DEFINE_integer(
        "max_corrupt", 10, "maximum number of undecodable images to skip", lower_bound=0, **common
    )
    flags.DEFINE_enum(
        "on_duplicates",
        "warn",
        ON_DUPLICATES,
        "what to do about identical files in training and evaluation, or in two classes",
        **common,
    )


def check(values, command) -> ManifestDataset | None:
    """Raises ``ValueError`` for missing or impossible data, before TensorFlow is imported.

    Returns the data set if that reads it: a local manifest.
    """
    if not values.data:
        raise ValueError(f"--data is missing; see {command} --help")
    check_holdout(values.holdout)
    check_path(values.data)
    if os.path.isdir(values.data) and not os.listdir(values.data):
        raise ValueError(
            f"data {values.data!r} has no images, it is an empty folder: give {ACCEPTED}"
        )
    if values.data.lower().endswith(MANIFEST_ENDINGS) and os.path.isfile(values.data):
        return open_manifest(values.data)
    return None


def print_notes(*sources):
    """Prints what of the data is not used, each line once."""
    sources = [source for source in sources if source is not None]
    notes = [note for source in sources for note in source.notes]
    notes += [f"skipped, cannot be decoded: {path}" for s in sources for path in s.skipped]
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
