"""Reads PyTorch state dicts (``.safetensors``, ``.pth``) safely, and timm's ``config.json``.

No code in a ``.pth`` file is executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings

import numpy as np

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.variants import Normalization

# The keys under which training scripts store the weights; EMA weights first.
_NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: float32 array} of a ``.safetensors`` or ``.pth`` file.

    The state dict may be nested in a training checkpoint, under "state_dict_ema", "model_ema",
    "state_dict" or "model". A prefix "module." of all names is removed. A pickle never runs code:
    PyTorch reads plain tensors only (``weights_only``) and rejects everything else. Raises
    ``ValueError`` for another kind of file.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file")
    state = _read_safetensors(path) if path.endswith(".safetensors") else _read_pickle(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name[len("module.") :]: array for name, array in state.items()}
    return state


def _read_safetensors(path):
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(
            f"{path} requires the package safetensors: pip install safetensors"
        ) from error
    with contextlib.suppress(ImportError):
        import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name).astype("float32") for name in names}
    except (SafetensorError, TypeError) as error:  # TypeError: unknown to NumPy
        raise ValueError(
            f"{path} is not a safetensors file (truncated, or of another format): {error}"
        ) from error


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} requires PyTorch: pip install torch, or convert it to .safetensors elsewhere"
        ) from error
    try:
        with warnings.catch_warnings():  # about pickle protocols newer than PyTorch's
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception in PyTorch
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} was rejected without running code: it is truncated, of another format, or a "
            "pickle with other objects than tensors. If you trust it, save its state dict as "
            f".safetensors first. PyTorch's message: {message[:300]}"
        ) from error
    if isinstance(state, dict):
        nested = (state[key] for key in _NESTED_KEYS if isinstance(state.get(key), dict))
        state = next(nested, state)
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return {str(name): tensor.detach().float().numpy() for name, tensor in state.items()}


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
