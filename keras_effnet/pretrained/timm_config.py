"""Reads timm's ``config.json``, which lies beside a file of weights."""

from __future__ import annotations

import json
import os

from keras_effnet.image_preprocessing import INTERPOLATIONS
from keras_effnet.pretrained.input_settings import WHOLE


def read_config(path: str | os.PathLike[str]) -> dict:
    """What timm's ``config.json`` beside a file states; {} if there is no such file.

    Keys: "architecture", "classes", "library", and the fields of ``GivenSettings``, as far as they
    are stated. `path` may also be that of the config.json. Raises ``ValueError`` for a file of
    another format.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8-sig") as file:
            config = json.load(file)
        weights = config.get("pretrained_cfg", config)
        settings = {"architecture": config.get("architecture")}
        classes = config.get("num_classes", weights.get("num_classes"))
        settings["classes"] = int(classes) if classes else None
        if "transformers_version" in config or "architectures" in config:
            settings["library"] = "transformers"
        for name in ("mean", "std"):
            if name in weights:
                settings[name] = tuple(255.0 * float(x) for x in weights[name])
        if "input_size" in weights:
            settings["image_size"] = int(weights["input_size"][-1])
        if weights.get("crop_mode") == "squash":
            settings["crop"] = WHOLE
        elif "crop_pct" in weights:
            settings["crop"] = float(weights["crop_pct"])
        if weights.get("interpolation") in INTERPOLATIONS:
            settings["interpolation"] = weights["interpolation"]
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{beside} is not a timm configuration: {error}") from error
    return {key: value for key, value in settings.items() if value is not None}
