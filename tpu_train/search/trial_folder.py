"""The folder of a trial: its network, log and metrics, and checkpoints until it is finished.

No TensorFlow.
"""

from __future__ import annotations

import json
import os
import shutil

from keras_effnet.variant_file import write_variant
from keras_effnet.variants import Variant

NETWORK, LOG, RECIPE = "network.json", "train.log", "recipe.json"
_KEPT = (NETWORK, LOG, RECIPE, "metrics.jsonl")  # of a finished trial


def write_network(folder: str, variant: Variant) -> str:
    """The absolute path of the network's file in a folder; writes it, if it does not exist."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(os.path.abspath(folder), NETWORK)
    if not os.path.exists(path):
        write_variant(path, variant)
    return path


def can_resume(folder: str, model: str) -> bool:
    """Whether a folder has checkpoints of a run whose network is at the path `model`.

    The path belongs to a run's identity: after the folder has moved, the run starts again.
    """
    try:
        with open(os.path.join(folder, RECIPE), encoding="utf-8") as file:
            same = json.load(file)["recipe"]["model"] == model
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
