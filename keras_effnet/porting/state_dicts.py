"""PyTorch's files: ``.safetensors``, and ``.pth`` without running anything that stands in it; and
the ``config.json`` that timm puts beside them.
"""

import contextlib
import json
import os
import warnings

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.variants import Normalization

# What a training writes around its weights; the averaged ones first.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_state(path):
    """{name: float32 array} of a ``.safetensors`` or ``.pth`` file.

    A state dict nested under a training checkpoint's "state_dict_ema", "model_ema", "state_dict" or
    "model" is found, and "module." before every name is taken off. A pickle is never run: PyTorch
    reads plain tensors alone (``weights_only``), whatever else stands in the file is refused.
    Raises ``ValueError`` for a file that is something else.
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
            f"{path} needs the package safetensors: pip install safetensors"
        ) from error
    with contextlib.suppress(ImportError):
        import ml_dtypes  # noqa: F401  # NumPy knows bfloat16 then
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name).astype("float32") for name in names}
    except (SafetensorError, TypeError) as error:  # TypeError: a type that NumPy does not know
        raise ValueError(
            f"{path} is not a safetensors file (truncated, or of another format): {error}"
        ) from error


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} needs PyTorch: pip install torch, or save it as .safetensors where PyTorch is"
        ) from error
    try:
        with warnings.catch_warnings():  # about pickles newer than PyTorch's own
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes PyTorch's reader stumble in any way
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} was refused, and nothing in it was run: it is truncated, of another format, "
            "or a pickle with more than tensors in it. If you trust it, save its state dict as "
            f".safetensors first. PyTorch says: {said[:300]}"
        ) from error
    nest = next(
        (n for n in _NESTS if isinstance(state, dict) and isinstance(state.get(n), dict)), None
    )
    state = state[nest] if nest else state
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return {str(name): tensor.detach().float().numpy() for name, tensor in state.items()}


def read_config(path):
    """What timm's ``config.json`` beside a file says: {} without one, else of "architecture",
    "normalization" and "preprocessing" what is stated. Raises ``ValueError`` for another file.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8") as file:
            config = json.load(file)
        weights = config.get("pretrained_cfg", config)
        found = {"architecture": config.get("architecture")}
        if "mean" in weights and "std" in weights:
            mean, std = (tuple(255.0 * float(x) for x in weights[k]) for k in ("mean", "std"))
            found["normalization"] = Normalization(mean, std)
        if "input_size" in weights:
            squash = weights.get("crop_mode") == "squash"
            bilinear = weights.get("interpolation") == "bilinear"
            found["preprocessing"] = Preprocessing(
                int(weights["input_size"][-1]),
                None if squash else float(weights.get("crop_pct", 0.875)),
                "bilinear" if bilinear else "bicubic",
            )
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{beside} is not a timm configuration: {error}") from error
    return {key: value for key, value in found.items() if value is not None}
