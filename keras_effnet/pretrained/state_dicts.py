"""Reads PyTorch state dicts (``.safetensors``, ``.pth``) safely. No code in a file is executed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.pretrained import torch_pickle
from keras_effnet.pretrained.layer_names import LayerNames, check_names, weighted_layers

# The keys under which training scripts store the weights; EMA weights first.
_NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Of all names: DataParallel's, torch.compile's and usually Lightning's.
_PREFIXES = ("module.", "_orig_mod.", "model.")

# fmt: off
# The variables of each kind of layer, in the order of our weights: PyTorch's name, and the
# permutation of its axes that gives ours.
VARIABLES = {
    "conv":        (("weight", (2, 3, 1, 0)),),
    "biased conv": (("weight", (2, 3, 1, 0)), ("bias", (0,))),
    "depthwise":   (("weight", (2, 3, 0, 1)),),
    "batch_norm":  (("weight", (0,)), ("bias", (0,)),
                    ("running_mean", (0,)), ("running_var", (0,))),
    "dense":       (("weight", (1, 0)), ("bias", (0,))),
}
# fmt: on
COUNTER = "num_batches_tracked"  # of every batch norm; does not affect inference


def read_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: float32 array} of a ``.safetensors`` or ``.pth`` file.

    The state dict may be nested in a training checkpoint, under "state_dict_ema", "model_ema",
    "state_dict" or "model". The prefixes "module.", "_orig_mod." and "model." of all names are
    removed. A pickle never runs code: plain tensors are read (:mod:`.torch_pickle`), everything
    else is rejected. Raises ``ValueError`` for another kind of file.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file")
    state = _read_safetensors(path) if path.endswith(".safetensors") else _read_pickle(path)
    while prefix := _common_prefix(state):
        state = {name[len(prefix) :]: array for name, array in state.items()}
    return state


def _common_prefix(state):
    """The prefix of all names that a training tool added, or ""."""
    shared = (p for p in _PREFIXES if state and all(name.startswith(p) for name in state))
    return next(shared, "")


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
        state = torch_pickle.load(path)
        if isinstance(state, dict):
            nested = (state[key] for key in _NESTED_KEYS if isinstance(state.get(key), dict))
            state = next(nested, state)
        tensors = isinstance(state, dict) and all(
            isinstance(tensor, torch_pickle.Tensor) for tensor in state.values()
        )
        arrays = {str(name): t.array() for name, t in state.items()} if tensors else {}
    except Exception as error:  # a damaged pickle can raise any exception
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} was rejected without running code: it is truncated, of another format, or a "
            "pickle with other objects than tensors. If you trust it, save its state dict as "
            f".safetensors first. What is wrong: {message[:300]}"
        ) from error
    if not tensors:
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return arrays


def read(
    path: str | os.PathLike[str], plan: Plan, names: LayerNames, *, include_top: bool = True
) -> dict[str, list[np.ndarray]]:
    """{our layer's name: arrays, in the order of ``layer.weights``} of a state dict.

    `path` is a ``.safetensors`` or ``.pth`` file, `names` the project's. Without `include_top` a
    classifier in the file is skipped. Raises ``ValueError`` that names every missing or left-over
    tensor.
    """
    return by_our_names(path, read_state(path), plan, names, include_top=include_top)


def by_our_names(
    path: str | os.PathLike[str],
    state: Mapping[str, np.ndarray],
    plan: Plan,
    names: LayerNames,
    *,
    include_top: bool = True,
) -> dict[str, list[np.ndarray]]:
    """As :func:`read`, of a state dict that :func:`read_state` has read from `path`."""
    expected = {
        f"{layer.source_name}.{variable}": (layer, axes)
        for layer in weighted_layers(plan, names, include_top=include_top)
        for variable, axes in VARIABLES[layer.kind]
    }
    skipped = None if include_top else names.ends["predictions"] + "."
    extra = [
        name
        for name in state
        if name not in expected
        and not name.endswith("." + COUNTER)
        and not (skipped and name.startswith(skipped))
    ]
    check_names(path, plan, [name for name in expected if name not in state], extra)
    weights = {}
    for name, (layer, axes) in expected.items():
        if state[name].ndim != len(axes):
            raise ValueError(
                f"{path}: {name} has shape {state[name].shape}, expected {len(axes)} dimensions"
            )
        weights.setdefault(layer.name, []).append(state[name].transpose(axes))
    return weights
