"""Feature maps at several strides, as backbones of detection and segmentation models use them."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

from keras_effnet.model_structure import (
    Backbone,
    find_backbone,
    last_layer,
    layers_by_block,
    stride_of,
)
from keras_effnet.network_plan import Plan, plan
from keras_effnet.variants import Variant


@dataclass(frozen=True)
class Level:
    """One feature map of a network."""

    level: int  # 1 to 5
    stride: int  # 2**level
    channels: int
    layer: str  # the layer that outputs it

    def __str__(self):
        return f"{self.level:>5}{self.stride:>8}{self.channels:>10}  {self.layer}"


@dataclass(frozen=True)
class FeatureTable:
    """The feature maps of a network at all levels. ``str(table)`` is a table."""

    model: str
    levels: tuple[Level, ...]

    def __str__(self):
        head = f"{'level':>5}{'stride':>8}{'channels':>10}  layer"
        return "\n".join([self.model, head, *map(str, self.levels)])

    def __getitem__(self, level):
        """The :class:`Level` of that number; raises ``ValueError`` for another number."""
        for row in self.levels:
            if row.level == level:
                return row
        known = ", ".join(str(row.level) for row in self.levels)
        raise ValueError(f"{self.model} has no level {level!r}: it has {known} (stride 2**level)")


def feature_table(model) -> FeatureTable:
    """The :class:`FeatureTable` of a model, or of a variant by its name (which builds nothing).

    Level ``i`` is the last feature map with stride ``2**i``: in every published variant the outputs
    of stages 1, 2, 3, 5 and the last (official code: ``endpoints["reduction_i"]``). Layers are
    found by name, so the model may come from a file, have another head, or be nested in another
    model. Raises ``ValueError`` for a model without an EfficientNet, or an unknown name.

    >>> print(feature_table("efficientnetv2-s"))
    efficientnetv2-s
    level  stride  channels  layer
        1       2        24  block1b_add
        2       4        48  block2d_add
        3       8        64  block3d_add
        4      16       160  block5i_add
        5      32       256  block6o_add
    """
    if isinstance(model, (str, Variant, Plan)):
        resolved = model if isinstance(model, Plan) else plan(model)
        return FeatureTable(resolved.name, _levels(_outputs_of_plan(resolved)))
    backbone = find_backbone(model)
    return FeatureTable(backbone.model.name, _levels(_outputs_of_backbone(backbone)))


def features(model, levels: int | Sequence[int] = (3, 4, 5), *, input_shape=None, weights=None):
    """A ``keras.Model`` from images (batch, height, width, 3) in [0, 255] to feature maps.

    Level ``i`` is (batch, height / 2**i, width / 2**i, channels), rounded up, in the model's
    compute dtype. One level gives one map, several give a list in the order of `levels`. `model` is
    a model with or without classifier, possibly nested in another; the features share its layers
    and input. Or it is a variant's name; then `input_shape` (default: any size) and `weights`
    (default: random) are as in :func:`keras_effnet.create_model`. A model with a fixed input size
    keeps it: see :func:`keras_effnet.change_image_size`.

    Raises ``ValueError`` for an unknown level, or a model without an EfficientNet.

    >>> import keras
    >>> pyramid = features("efficientnet-b0", levels=(3, 4, 5))
    >>> [tuple(m.shape) for m in pyramid(keras.Input((224, 160, 3)))]
    [(None, 28, 20, 40), (None, 14, 10, 112), (None, 7, 5, 320)]
    """
    from_name = isinstance(model, (str, Variant))
    table = feature_table(model)
    wanted = (levels,) if isinstance(levels, numbers.Integral) else tuple(levels)
    if not wanted:
        raise ValueError("levels is empty: give at least one, e.g. (3, 4, 5)")
    rows = [table[level] for level in wanted]
    if from_name:
        from keras_effnet.constructors import create_model

        model = create_model(model, include_top=False, input_shape=input_shape, weights=weights)
    elif input_shape is not None or weights is not None:
        raise ValueError(
            "input_shape and weights apply to a variant's name, but a model was given: "
            "change_image_size(model, image_size) changes its size"
        )
    backbone = find_backbone(model)
    outputs = [backbone.model.get_layer(row.layer).output for row in rows]
    name = f"{model.name}_features"
    return _model_to(backbone, outputs[0] if len(outputs) == 1 else outputs, name)


def _model_to(backbone: Backbone, outputs, name):
    """A model from the outermost model's input to tensors within its EfficientNet."""
    import keras

    result = keras.Model(_one_or_all(backbone.model.inputs), outputs, name=name)
    for outer, inner in reversed(list(zip(backbone.path, backbone.path[1:]))):
        result = _from_outer_input(outer, inner, result, name)
    return result


def _from_outer_input(outer, inner, submodel, name):
    """`submodel` of the nested model `inner`, from the input of the model `outer` around it."""
    import keras

    if not getattr(outer, "inputs", None):
        raise ValueError(
            f"{outer.name} is not a functional model, so the layers before {inner.name} are "
            f"unknown: give model.get_layer({inner.name!r})"
        )
    if len(outer.inputs) > 1:
        raise ValueError(
            f"{outer.name} has {len(outer.inputs)} inputs, but feature maps are those of one "
            f"image: give model.get_layer({inner.name!r})"
        )
    layer_input, _ = call_within(outer, inner)
    return keras.Model(_one_or_all(outer.inputs), submodel(layer_input), name=name)


def call_within(model, layer):
    """(input tensors, output tensors) of a layer where a functional model calls it.

    Raises ``ValueError`` if the model does not call it.
    """
    import keras

    # Keras has no public API for this. A layer records all its calls, also those of other models,
    # which are not connected to this model's input.
    for node in layer._inbound_nodes:
        tensors = _one_or_all(node.input_tensors), _one_or_all(node.output_tensors)
        try:
            if len(layer._inbound_nodes) > 1:
                keras.Model(_one_or_all(model.inputs), tensors[1])
        except ValueError:  # not connected
            continue
        return tensors
    raise ValueError(f"{layer.name} is not connected to the input of {model.name}")


def _one_or_all(tensors):
    if not isinstance(tensors, (list, tuple)):  # Keras 2's nodes
        return tensors
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _outputs_of_plan(p):
    """[(stride, channels, layer name)] of the stem and of each block."""
    outputs = [(2, p.stem_filters, "stem_activation")]
    if p.stem_pool:
        outputs.append((2, p.stem_filters, "stem_pool"))
    for block in p.blocks:
        activates = block.op == "fused" and not block.expands
        suffix = "add" if block.residual else "project_activation" if activates else "project_bn"
        suffix = "add_activation" if block.op == "bottleneck" else suffix
        outputs.append((block.stride, block.out_filters, f"{block.name}_{suffix}"))
    return outputs


def _outputs_of_backbone(backbone):
    by_name = backbone.layers
    axis = -1 if by_name["stem_conv"].data_format == "channels_last" else 1
    outputs = [(stride_of([by_name["stem_conv"]]), by_name["stem_activation"])]
    if "stem_pool" in by_name:
        outputs.append((stride_of([by_name["stem_pool"]]), by_name["stem_pool"]))
    for name, layers in layers_by_block(backbone).items():
        outputs.append((stride_of(layers), last_layer(name, layers)))
    return [(stride, int(layer.output.shape[axis]), layer.name) for stride, layer in outputs]


def _levels(outputs):
    last, stride = {}, 1
    for factor, channels, layer in outputs:
        stride *= factor
        level = stride.bit_length() - 1
        if stride == 1 << level:
            last[level] = Level(level, stride, channels, layer)
    return tuple(last[level] for level in sorted(last))
