"""Reads timm's ``config.json``, which lies beside a file of weights."""

from __future__ import annotations

import json
import os

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.variants import Normalization


def read_config(path: str | os.PathLike[str]) -> dict:
    """What timm's ``config.json`` beside a file states; {} if there is no such file.

    Keys: "architecture", "normalization" and "preprocessing", as far as they are stated. Raises
    ``ValueError`` for a file of another format.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8-sig") as file:
            config = json.load(file)
        weights = config.get("pretrained_cfg", config)
        settings = {"architecture": config.get("architecture")}
        if "mean" in weights and "std" in weights:
            mean, std = (tuple(255.0 * float(x) for x in weights[k]) for k in ("mean", "std"))
            settings["normalization"] = Normalization(mean, std)
        if "input_size" in weights:
            squash = weights.get("crop_mode") == "squash"
            bilinear = weights.get("interpolation") == "bilinear"
            settings["preprocessing"] = Preprocessing(
                int(weights["input_size"][-1]),
                None if squash else float(weights.get("crop_pct", 0.875)),
                "bilinear" if bilinear else "bicubic",
            )
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{beside} is not a timm configuration: {error}") from error
    return {key: value for key, value in settings.items() if value is not None}
