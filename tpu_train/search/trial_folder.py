"""The folder of a trial: its network, log and metrics, and checkpoints until it is finished.

No TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

from keras_effnet.atomic_write import remove_leftovers
from keras_effnet.variant_file import read_variant, write_variant
from keras_effnet.variants import Variant
from tpu_train.recipes.schema import Recipe

NETWORK, LOG, RECIPE = "network.json", "train.log", "recipe.json"
_KEPT = (NETWORK, LOG, RECIPE, "metrics.jsonl")  # of a finished trial


def write_network(folder: str, variant: Variant) -> str:
    """The absolute path of the network's file in a folder, which is written if it is missing.

    The folder may be that of a trial with another network, of another study: the network is then
    replaced, as is a damaged file, and checkpoints are removed.
    """
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder, [NETWORK])
    path = os.path.join(os.path.abspath(folder), NETWORK)
    if _read(path) != variant:
        shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)
        write_variant(path, variant)
    return path


def _read(path):
    """The network of a file; None if it is missing or damaged."""
    try:
        return read_variant(path)
    except ValueError:
        return None


def can_resume(folder: str, recipe: Recipe) -> bool:
    """Whether a folder has checkpoints of a run with a recipe, whose model is a path.

    Both belong to a run's identity: after the folder has moved, or with another value of a setting
    that does not change a study, the run starts again.
    """
    try:
        with open(os.path.join(folder, RECIPE), encoding="utf-8") as file:
            same = json.load(file)["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe)))
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return same and os.path.isdir(os.path.join(folder, "checkpoints"))


def remove_checkpoints(folder: str) -> None:
    """Leaves the network, the log, the recipe and the metrics of a finished trial."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif name not in _KEPT and not name.startswith("."):
            os.remove(path)
