"""Finds the EfficientNet in a model, and its blocks and groups of layers, by layer name.

Every network built by this package and every EfficientNet of keras.applications uses the same layer
names (``stem_conv``, ``block2a_project_bn``, ``top_conv``), possibly behind a prefix, and saved
files keep them. "EfficientNet" here includes this package's MobileNetV2 and ResNet-50. So this
works whatever the variant and wherever the model comes from. No Keras here: models are only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_effnet.model_graph import require_model

_BLOCK = re.compile(r"block(\d+)([a-z]+)_")
_STEM = "stem_conv"


@dataclass(frozen=True)
class Backbone:
    """An EfficientNet in a model: `path` leads from the model to it, both included.

    `prefix` precedes the names of its layers (``create_model(name_prefix=...)``).
    """

    path: tuple
    prefix: str = ""

    @property
    def model(self):
        """The functional model that directly contains the EfficientNet's layers."""
        return self.path[-1]

    @property
    def layers(self) -> dict:
        """{name without the prefix: layer} of the layers of the model, in its order."""
        return {self.plain_name(layer): layer for layer in self.model.layers}

    def plain_name(self, layer) -> str:
        """A layer's name without the prefix."""
        name = layer.name
        return name[len(self.prefix) :] if name.startswith(self.prefix) else name


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
        raise ValueError(
            f"{name} contains no EfficientNet: it has no layers named stem_conv and "
            "block1a_project_bn. Build one with create_model(name), or load a file of one"
        )
    names = ", ".join(
        repr(b.model.name) + (f" (layers {b.prefix}...)" if b.prefix else "") for b in backbones
    )
    inner = [b for b in backbones if len(b.path) > 1]
    example = f"model.get_layer({inner[0].model.name!r})" if inner else "the one that you built"
    raise ValueError(
        f"{name} contains {len(backbones)} EfficientNets ({names}): give one of them, e.g. "
        f"{example}"
    )


def _backbones(path) -> Iterator[Backbone]:
    layers = path[-1].layers
    names = [layer.name for layer in layers]
    prefixes = [name[: -len(_STEM)] for name in names if name.endswith(_STEM)]
    found = [
        prefix
        for prefix in dict.fromkeys(prefixes)
        if any(n.startswith(prefix) and _BLOCK.match(n[len(prefix) :]) for n in names)
    ]
    if found:
        yield from (Backbone(path, prefix) for prefix in found)
        return
    for layer in layers:
        if hasattr(layer, "layers"):
            yield from _backbones((*path, layer))


def layers_by_block(backbone: Backbone) -> dict[str, list]:
    """{"block1a": its layers, ...} of a backbone, in the network's order."""
    blocks = {}
    for name, layer in backbone.layers.items():
        match = _BLOCK.match(name)
        if match:
            stage, letters = match.groups()
            blocks.setdefault((int(stage), len(letters), letters), []).append(layer)
    return {
        f"block{stage}{letters}": blocks[stage, n, letters] for stage, n, letters in sorted(blocks)
    }


def last_layer(block: str, layers: Sequence):
    """The layer, of those of a block, that computes the block's output."""
    for suffix in ("add_activation", "add", "project_activation", "project_bn"):
        for layer in layers:
            if layer.name.endswith(f"{block}_{suffix}"):
                return layer
    names = ", ".join(layer.name for layer in layers)
    raise ValueError(f"{block} has no known output layer: its layers are {names}")


def last_feature_map(backbone: Backbone):
    """The layer that outputs a backbone's last feature map."""
    if "top_activation" in backbone.layers:
        return backbone.layers["top_activation"]
    name, layers = list(layers_by_block(backbone).items())[-1]
    return last_layer(name, layers)


def stride_of(layers: Sequence) -> int:
    """The total stride of layers, those of a shortcut excluded."""
    stride = 1
    for layer in layers:
        if hasattr(layer, "strides") and "_shortcut_" not in layer.name:
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
    for name, layer in backbone.layers.items():
        match = _BLOCK.match(name)
        if match:
            stages.setdefault(int(match.group(1)), []).append(layer)
        elif name in ("top_conv", "top_bn", "top_activation"):
            top.append(layer)
        elif name.startswith("stem_") or not after_stem_conv:
            after_stem_conv = after_stem_conv or name == _STEM
            stem.append(layer)
        else:
            head.append(layer)
    groups = {"stem": before + stem}
    groups.update((f"block{number}", stages[number]) for number in sorted(stages))
    groups.update((n, layers) for n, layers in (("top", top), ("head", head + after)) if layers)
    return {name: tuple(layers) for name, layers in groups.items()}
