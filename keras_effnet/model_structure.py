"""What is where in a model: its EfficientNet, blocks, groups of layers, found by their names.

Every EfficientNet that this package or keras.applications builds names its layers alike
(``stem_conv``, ``block2a_project_bn``, ``top_conv``), and a saved file keeps the names. So nothing
here asks which variant a model is, or who built it. No Keras here: models are only looked at.
"""

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"block(\d+)([a-z]+)_")


@dataclass(frozen=True)
class Body:
    """An EfficientNet within a model: `path` leads from the model to it, both included."""

    path: tuple

    @property
    def model(self):
        """The functional model whose own layers are the EfficientNet's."""
        return self.path[-1]


def find_body(model):
    """The :class:`Body` of a model: itself, or a model nested in it.

    Raises ``ValueError`` for what is no model, has no EfficientNet in it, or has several.
    """
    if not hasattr(model, "layers"):
        raise ValueError(
            f"{model!r} is a {type(model).__name__}, not a keras.Model: build one with "
            "create_model(name), or load one"
        )
    found = list(_bodies((model,)))
    if len(found) == 1:
        return found[0]
    name = getattr(model, "name", model)
    if not found:
        raise ValueError(
            f"{name} is no EfficientNet and has none in it: no layers named stem_conv and "
            "block1a_project_bn. Build one with create_model(name), or load a file of one"
        )
    inside = ", ".join(repr(b.model.name) for b in found)
    raise ValueError(
        f"{name} has {len(found)} EfficientNets in it ({inside}): give one of them, e.g. "
        f"model.get_layer({found[0].model.name!r})"
    )


def _bodies(path):
    layers = path[-1].layers
    names = {layer.name for layer in layers}
    if "stem_conv" in names and any(_BLOCK.match(name) for name in names):
        yield Body(path)
        return
    for layer in layers:
        if hasattr(layer, "layers"):
            yield from _bodies((*path, layer))


def blocks(body):
    """{"block1a": [its layers], ...} of a body, in the network's order."""
    found = {}
    for layer in body.model.layers:
        match = _BLOCK.match(layer.name)
        if match:
            stage, letters = match.groups()
            found.setdefault((int(stage), len(letters), letters), []).append(layer)
    return {
        f"block{stage}{letters}": found[stage, n, letters] for stage, n, letters in sorted(found)
    }


def last_layer(block, layers):
    """The layer that a block's output comes from."""
    own = {layer.name: layer for layer in layers}
    for part in ("add", "project_activation", "project_bn"):
        if f"{block}_{part}" in own:
            return own[f"{block}_{part}"]
    raise ValueError(f"{block} has no end that is known: its layers are {', '.join(own)}")


def stride_of(layers):
    """By how much some layers in a row shrink an image."""
    stride = 1
    for layer in layers:
        if hasattr(layer, "strides"):
            stride *= layer.strides[0]
    return stride


def groups(model):
    """{"stem": layers, "block1": ..., "top": ..., "head": ...} of a model, in its order.

    "stem" has whatever comes before it too, "top" is the last convolution, "head" what follows.
    Layers of a model that the EfficientNet is nested in belong to the stem or to the head.
    """
    body = find_body(model)
    before, after = [], []
    for outer, inner in zip(body.path, body.path[1:]):
        at = next(i for i, layer in enumerate(outer.layers) if layer is inner)
        before += outer.layers[:at]
        after = outer.layers[at + 1 :] + after
    stages, top, head, stem = {}, [], [], []
    seen_stem = False
    for layer in body.model.layers:
        match = _BLOCK.match(layer.name)
        if match:
            stages.setdefault(int(match.group(1)), []).append(layer)
        elif layer.name in ("top_conv", "top_bn", "top_activation"):
            top.append(layer)
        elif layer.name.startswith("stem_") or not seen_stem:
            seen_stem = seen_stem or layer.name == "stem_conv"
            stem.append(layer)
        else:
            head.append(layer)
    ordered = {"stem": before + stem}
    ordered.update((f"block{number}", stages[number]) for number in sorted(stages))
    ordered.update((n, part) for n, part in (("top", top), ("head", head + after)) if part)
    return {name: tuple(layers) for name, layers in ordered.items()}
