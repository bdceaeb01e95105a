"""Feature maps of several strides: what detectors and segmenters build upon."""

from dataclasses import dataclass

from keras_effnet import model_structure
from keras_effnet.network_plan import Plan, plan
from keras_effnet.variants import Variant


@dataclass(frozen=True)
class Level:
    """One feature map: what a level gives, and which layer."""

    level: int  # 1 to 5
    stride: int  # 2**level: image pixels a feature pixel
    channels: int
    layer: str  # whose output it is

    def __str__(self):
        return f"{self.level:>5}{self.stride:>8}{self.channels:>10}  {self.layer}"


@dataclass(frozen=True)
class FeatureTable:
    """All levels of one network. ``str(table)`` is a table."""

    model: str
    levels: tuple[Level, ...]

    def __str__(self):
        head = f"{'level':>5}{'stride':>8}{'channels':>10}  layer"
        return "\n".join([self.model, head, *map(str, self.levels)])

    def __getitem__(self, level):
        """The :class:`Level` of that number; raises ``ValueError`` for one that is not there."""
        for row in self.levels:
            if row.level == level:
                return row
        there = ", ".join(str(row.level) for row in self.levels)
        raise ValueError(f"{self.model} has no level {level!r}: it has {there} (stride 2**level)")


def feature_table(model):
    """The :class:`FeatureTable` of a model, or of a variant by its name; the latter builds nothing.

    Level ``i`` is where the network last has stride ``2**i``: the ends of the stages 1, 2, 3, 5 and
    of the last one in every published variant (official code: ``endpoints["reduction_i"]``). A
    model is read by its layers' names, so it may come from a file, have another head, or be part of
    another model. Raises ``ValueError`` for a model that has no EfficientNet in it, or an unknown
    name.

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
        return FeatureTable(resolved.name, _levels(*_ends_of_plan(resolved)))
    body = model_structure.find_body(model)
    return FeatureTable(body.model.name, _levels(*_ends_of_model(body)))


def features(model, levels=(3, 4, 5), *, input_shape=None, weights=None):
    """A ``keras.Model`` from images (batch, height, width, 3) in [0, 255] to feature maps.

    Level ``i`` is (batch, height / 2**i, width / 2**i, channels), rounded up, in the model's
    compute type; one level gives one map, several a list in the order of `levels`. `model` is a
    model, with or without its classifier, new, loaded or with an EfficientNet inside, and the
    features share its layers and its input; or it is a variant's name, and then `input_shape`
    (default: any size) and `weights` (default: random) are as in :func:`keras_effnet.create_model`.
    The sizes of a model that was built for one size are that size's: see
    :func:`keras_effnet.change_image_size`.

    Raises ``ValueError`` for a level that is not there, or a model with no EfficientNet in it.

    >>> import keras
    >>> pyramid = features("efficientnet-b0", levels=(3, 4, 5))
    >>> [tuple(m.shape) for m in pyramid(keras.Input((224, 160, 3)))]
    [(None, 28, 20, 40), (None, 14, 10, 112), (None, 7, 5, 320)]
    """
    from_name = isinstance(model, (str, Variant))
    table = feature_table(model)
    wanted = (levels,) if isinstance(levels, int) else tuple(levels)
    if not wanted:
        raise ValueError("levels is empty: give at least one, e.g. (3, 4, 5)")
    rows = [table[level] for level in wanted]
    if from_name:
        from keras_effnet.constructors import create_model

        model = create_model(model, include_top=False, input_shape=input_shape, weights=weights)
    elif input_shape is not None or weights is not None:
        raise ValueError(
            "input_shape and weights belong to a model that is built here from its name; this one "
            "is built: change_image_size(model, image_size) changes its size"
        )
    body = model_structure.find_body(model)
    outputs = [body.model.get_layer(row.layer).output for row in rows]
    return model_to(body, outputs[0] if len(outputs) == 1 else outputs, f"{model.name}_features")


def model_to(body, outputs, name):
    """A model from the outermost model's input to tensors within its EfficientNet."""
    import keras

    result = keras.Model(_one_or_all(body.model.inputs), outputs, name=name)
    for outer, inner in reversed(list(zip(body.path, body.path[1:]))):
        result = _through(outer, inner, result, name)
    return result


def _through(outer, inner, part, name):
    """`part` of the nested model `inner`, from the input of the model `outer` around it."""
    import keras

    if not getattr(outer, "inputs", None):
        raise ValueError(
            f"{outer.name} is not a functional model, so what it does before {inner.name} cannot "
            f"be seen: give model.get_layer({inner.name!r})"
        )
    seen, _ = call_within(outer, inner)
    return keras.Model(_one_or_all(outer.inputs), part(seen), name=name)


def call_within(model, layer):
    """The tensors that go into and come out of a layer where a functional model calls it."""
    import keras

    # Keras has no public way to ask: a layer knows its calls, and those of other models are among
    # them; they do not begin at this model's input.
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


def _ends_of_plan(p):
    """(stride, channels, layer name) at the stem's end and at each block's."""
    ends = [(2, p.stem_filters, "stem_activation")]
    for block in p.blocks:
        activates = block.op == "fused" and not block.expands
        part = "add" if block.residual else "project_activation" if activates else "project_bn"
        ends.append((block.stride, block.out_filters, f"{block.name}_{part}"))
    return ends, 1


def _ends_of_model(body):
    by_name = {layer.name: layer for layer in body.model.layers}
    axis = -1 if by_name["stem_conv"].data_format == "channels_last" else 1
    ends = [(model_structure.stride_of([by_name["stem_conv"]]), by_name["stem_activation"])]
    for name, layers in model_structure.blocks(body).items():
        ends.append((model_structure.stride_of(layers), model_structure.last_layer(name, layers)))
    return [(stride, int(end.output.shape[axis]), end.name) for stride, end in ends], 1


def _levels(ends, stride):
    last = {}
    for shrinks, channels, layer in ends:
        stride *= shrinks
        level = stride.bit_length() - 1
        if stride == 1 << level:
            last[level] = Level(level, stride, channels, layer)
    return tuple(last[level] for level in sorted(last))
