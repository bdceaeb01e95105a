"""Finds the EfficientNet in a model, and its blocks and groups of layers, by layer name.

Every EfficientNet built by this package or by keras.applications uses the same layer names
(``stem_conv``, ``block2a_project_bn``, ``top_conv``), and saved files keep them. So this works
whatever the variant and wherever the model comes from. No Keras here: models are only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_effnet.model_graph import require_model

_BLOCK = re.compile(r"block(\d+)([a-z]+)_")


@dataclass(frozen=True)
class Backbone:
    """An EfficientNet in a model: `path` leads from the model to it, both included."""

    path: tuple

    @property
    def model(self):
        """The functional model that directly contains the EfficientNet's layers."""
        return self.path[-1]


def find_backbone(model) -> Backbone:
    """The :class:`Backbone` of a model: the model itself, or a model nested in it.

    Raises ``ValueError`` for an object that is not a model, or has no or several EfficientNets.
    """
    require_model(model)
    backbones = list(_backbones((model,)))
    if len(backbones) == 1:
        return backbones[0]
    name = getattr(model, "name", model)
    if not backbones:
        prefixed = [x.name for x in model.layers if x.name.endswith("stem_conv")]
        if prefixed:
            raise ValueError(
                f"{name} contains no layer named stem_conv, but {prefixed[0]}: a network built "
                "with name_prefix is not found. Build it without, and call it as a layer"
            )
        raise ValueError(
            f"{name} contains no EfficientNet: it has no layers named stem_conv and "
            "block1a_project_bn. Build one with create_model(name), or load a file of one"
        )
    names = ", ".join(repr(b.model.name) for b in backbones)
    raise ValueError(
        f"{name} contains {len(backbones)} EfficientNets ({names}): give one of them, e.g. "
        f"model.get_layer({backbones[0].model.name!r})"
    )


def _backbones(path) -> Iterator[Backbone]:
    layers = path[-1].layers
    names = {layer.name for layer in layers}
    if "stem_conv" in names and any(_BLOCK.match(name) for name in names):
        yield Backbone(path)
        return
    for layer in layers:
        if hasattr(layer, "layers"):
            yield from _backbones((*path, layer))


def layers_by_block(backbone: Backbone) -> dict[str, list]:
    """{"block1a": its layers, ...} of a backbone, in the network's order."""
    blocks = {}
    for layer in backbone.model.layers:
        match = _BLOCK.match(layer.name)
        if match:
            stage, letters = match.groups()
            blocks.setdefault((int(stage), len(letters), letters), []).append(layer)
    return {
        f"block{stage}{letters}": blocks[stage, n, letters] for stage, n, letters in sorted(blocks)
    }


def last_layer(block: str, layers: Sequence):
    """The layer, of those of a block, that computes the block's output."""
    by_name = {layer.name: layer for layer in layers}
    for suffix in ("add", "project_activation", "project_bn"):
        if f"{block}_{suffix}" in by_name:
            return by_name[f"{block}_{suffix}"]
    raise ValueError(f"{block} has no known output layer: its layers are {', '.join(by_name)}")


def stride_of(layers: Sequence) -> int:
    """The total stride of consecutive layers."""
    stride = 1
    for layer in layers:
        if hasattr(layer, "strides"):
            stride *= layer.strides[0]
    return stride


def layers_by_group(model) -> dict[str, tuple]:
    """{"stem": layers, "block1": layers, ..., "top": layers, "head": layers}, in order.

    "stem" includes everything before it, "top" is the last convolution, "head" everything after.
    Layers of a model around the EfficientNet belong to the stem or to the head.
    """
    backbone = find_backbone(model)
    before, after = [], []
    for outer, inner in zip(backbone.path, backbone.path[1:]):
        index = next(i for i, layer in enumerate(outer.layers) if layer is inner)
        before += outer.layers[:index]
        after = outer.layers[index + 1 :] + after
    stages, top, head, stem = {}, [], [], []
    after_stem_conv = False
    for layer in backbone.model.layers:
        match = _BLOCK.match(layer.name)
        if match:
            stages.setdefault(int(match.group(1)), []).append(layer)
        elif layer.name in ("top_conv", "top_bn", "top_activation"):
            top.append(layer)
        elif layer.name.startswith("stem_") or not after_stem_conv:
            after_stem_conv = after_stem_conv or layer.name == "stem_conv"
            stem.append(layer)
        else:
            head.append(layer)
    groups = {"stem": before + stem}
    groups.update((f"block{number}", stages[number]) for number in sorted(stages))
    groups.update((n, layers) for n, layers in (("top", top), ("head", head + after)) if layers)
    return {name: tuple(layers) for name, layers in groups.items()}
