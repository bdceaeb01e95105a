"""Writes models as state dicts of PyTorch projects."""

from __future__ import annotations

import os

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.pretrained.layer_names import LayerNames, weighted_layers
from keras_effnet.pretrained.state_dicts import COUNTER, VARIABLES

GENERATOR = "keras_effnet"  # in the metadata of the files that are written


def write(model, path: str | os.PathLike[str], plan: Plan, names: LayerNames) -> None:
    """Writes a Keras model of `plan` as a ``.safetensors`` state dict of a PyTorch project.

    Its ``load_state_dict`` accepts it strictly. The caller is responsible for the plan's epsilon
    and padding: see ``porting.export``.
    """
    from safetensors.numpy import save_file

    state = {}
    include_top = any(layer.name == "predictions" for layer in model.layers)
    for layer in weighted_layers(plan, names, include_top=include_top):
        arrays = model.get_layer(layer.name).get_weights()
        for (variable, axes), array in zip(VARIABLES[layer.kind], arrays):
            array = array.astype("float32").transpose(np.argsort(axes))
            state[f"{layer.source_name}.{variable}"] = np.ascontiguousarray(array)
        if layer.kind == "batch_norm":
            state[f"{layer.source_name}.{COUNTER}"] = np.zeros((), "int64")
    save_file(state, path, metadata={"format": "pt", "generator": GENERATOR})
