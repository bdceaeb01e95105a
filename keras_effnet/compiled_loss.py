"""The loss that a Keras model was compiled with, which tells regression from classification."""

from __future__ import annotations

import json
import os
import zipfile

# Losses of numbers that are no class scores; upper and lower case and underscores do not matter.
_REGRESSION = frozenset(
    (
        *("mse", "meansquarederror", "mae", "meanabsoluteerror"),
        *("mape", "meanabsolutepercentageerror", "msle", "meansquaredlogarithmicerror"),
        *("huber", "huberloss", "logcosh", "poisson", "cosinesimilarity"),
    )
)


def read_loss(path: str) -> str | None:
    """The name of the only loss in the configuration of a .keras or .h5 file; None without one.

    A file that was saved without compiling the model has none, nor a folder of a SavedModel.
    """
    try:
        if os.path.splitext(path)[1] == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))["compile_config"]
        else:
            import h5py

            with h5py.File(path) as file:
                config = json.loads(file.attrs["training_config"])
        return _name(config["loss"])
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile):
        return None


def is_regression(model) -> bool:
    """Whether a model's only loss is one of regression or of embeddings, e.g. "mse".

    >>> import types
    >>> [is_regression(types.SimpleNamespace(loss=loss)) for loss in ("mse", ["Huber"], None)]
    [True, True, False]
    """
    name = _name(getattr(model, "loss", None))
    return name is not None and name.replace("_", "").lower() in _REGRESSION


def _name(loss):
    """The name of a loss, given as Keras takes or stores it; None for several, or an unknown."""
    while isinstance(loss, (list, tuple, dict)):
        if isinstance(loss, dict) and "class_name" in loss:  # a stored object
            loss = loss["config"] if loss["class_name"] == "function" else loss["class_name"]
        elif len(loss) == 1:
            (loss,) = loss.values() if isinstance(loss, dict) else loss
        else:
            return None
    if isinstance(loss, str) or loss is None:
        return loss
    return getattr(loss, "__name__", type(loss).__name__)
