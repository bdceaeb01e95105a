"""Fine-tuning: a new head, which layers of the backbone train, and at which learning rate."""

from __future__ import annotations

import fnmatch
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass

from keras_effnet.model_structure import find_backbone, last_feature_map, layers_by_group
from keras_effnet.network_plan import checked_rate
from keras_effnet.onnx_export import exportable
from keras_effnet.suggestions import unknown_name

BATCH_NORM = ("frozen", "train")


def with_new_head(
    model,
    classes: int,
    *,
    dropout_rate: float | None = None,
    activation="softmax",
    name_prefix: str = "",
):
    """A model with the same input and backbone and a new head: (batch, classes), float32.

    The layers up to the pooling, including preprocessing, are shared, not copied: training one
    model trains both. The new head is dropout (`dropout_rate`; default: the model's, or 0.2 if it
    has none) and a Dense layer with `activation`. Its weights start at zero, so that the first
    predictions are equal for all classes and no gradient reaches the backbone (as in big_vision).
    A model without pooling gets average pooling. `name_prefix` precedes the names of the new
    layers, so that the new head and the old one can be in one model.

    Raises ``ValueError`` for a model that is not itself an EfficientNet, or invalid numbers.

    >>> from keras_effnet import create_model
    >>> with_new_head(create_model("efficientnetv2-b0"), 5).output_shape
    (None, 5)
    """
    backbone = find_backbone(model)
    if len(backbone.path) > 1:
        raise ValueError(
            f"the EfficientNet is nested in {model.name}, which adds its own head: give "
            f"model.get_layer({backbone.model.name!r})"
        )
    if isinstance(classes, bool) or not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(f"classes {classes!r} is not a number of classes: give at least 1")
    by_name = backbone.layers
    usual = by_name["top_dropout"].rate if "top_dropout" in by_name else 0.2
    dropout_rate = checked_rate("dropout_rate", dropout_rate, usual)

    import keras
    from keras import layers

    pool = next((by_name[n] for n in ("avg_pool", "max_pool") if n in by_name), None)
    if pool is not None:
        x = pool.output
    else:
        data_format = by_name["stem_conv"].data_format
        x = layers.GlobalAveragePooling2D(data_format=data_format, name=f"{name_prefix}avg_pool")(
            last_feature_map(backbone).output
        )
    x = layers.Dropout(dropout_rate, name=f"{name_prefix}top_dropout")(x)
    x = layers.Dense(
        int(classes),
        activation=activation,
        kernel_initializer="zeros",
        dtype="float32",
        name=f"{name_prefix}predictions",
    )(x)
    return exportable(keras.Model(model.input, x, name=model.name))


def layer_groups(model) -> dict[str, tuple]:
    """{"stem": layers, "block1": layers, ..., "top": layers, "head": layers}, in order.

    "stem" includes the preprocessing, "top" is the last convolution, "head" is pooling, dropout and
    classifier. Layers of a model around the EfficientNet belong to the stem or to the head.

    >>> from keras_effnet import create_model
    >>> list(layer_groups(create_model("efficientnetv2-b0")))
    ['stem', 'block1', 'block2', 'block3', 'block4', 'block5', 'block6', 'top', 'head']
    """
    return layers_by_group(model)


def has_layer_groups(model) -> bool:
    """Whether a model has the groups of :func:`layer_groups`: whether it contains an EfficientNet.

    >>> from keras_effnet import create_model
    >>> has_layer_groups(create_model("efficientnetv2-b0"))
    True
    """
    try:
        return bool(layers_by_group(model))
    except ValueError:
        return False


def freeze(model, up_to: str = "top", *, batch_norm: str = "frozen") -> tuple[str, ...]:
    """Freezes the groups from the input up to and including `up_to`; returns their names.

    Changes the model in place: the other groups train, whatever was frozen before. `up_to` is a
    name of :func:`layer_groups`; "top" lets only the head train (also in a ResNet, whose last group
    before the head is "block4"). **Compile the model afterwards**:
    Keras reads ``trainable`` when a model is compiled, and an optimizer keeps the variables that
    it was built with.

    In the frozen groups batch norm uses its stored statistics, also in training (Keras does this if
    ``trainable`` is False): a small batch of new images would overwrite the statistics of a million
    images. `batch_norm` states what it does in the groups that train:

    - "frozen" (default): the same; the convolutions adapt. For few images or small batches.
    - "train": statistics and scales follow the new images. For many images in large batches that
      differ from the pretraining images.

    The policy does not apply to layers of the head. Dropout and stochastic depth stay active in
    frozen groups during training; build with ``drop_path_rate=0`` to disable stochastic depth.

    Raises ``ValueError`` for an unknown group, with the nearest names, or an unknown policy.

    >>> from keras_effnet import create_model
    >>> freeze(create_model("efficientnetv2-b0"), up_to="block2")
    ('stem', 'block1', 'block2')
    """
    groups = layers_by_group(model)
    names = list(groups)
    if up_to == "top" and "top" not in groups:
        up_to = next(name for name in reversed(names) if name != "head")
    if up_to not in groups:
        raise ValueError(unknown_name("group", up_to, names))
    frozen = tuple(names[: names.index(up_to) + 1])
    _set_trainable(model, groups, frozen=frozen, batch_norm=batch_norm)
    return frozen


def select_layers(model, names: str) -> tuple:
    """The layers of a model that `names` selects, in the model's order; none may be selected.

    `names` is one of these, or several joined by "+":

    - "none", "batch_norm" (every batch normalization) or "backbone" (all but the last layer with
      weights);
    - a group of :func:`layer_groups`, which includes all groups before it, as in :func:`freeze`;
    - the name of a layer, or a pattern of names, such as "block2*" or "*_dwconv".

    Models without an EfficientNet have no groups. Raises ``ValueError`` for a name that selects
    nothing, with the nearest names.

    >>> from keras_effnet import create_model
    >>> layers = select_layers(create_model("efficientnetv2-b0"), "stem+*_se_reduce")
    >>> [layer.name for layer in layers if "_conv" in layer.name or "_se_" in layer.name][:2]
    ['stem_conv', 'block4a_se_reduce']
    """
    selected = {id(layer) for name in names.split("+") for layer in _select(model, name)}
    return tuple(layer for layer in _all_layers(model) if id(layer) in selected)


def _select(model, name):
    import keras

    layers = _all_layers(model)
    if name == "none":
        return []
    if name == "batch_norm":
        return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if name == "backbone":
        last = max(i for i, layer in enumerate(layers) if layer.weights)
        return layers[:last]
    groups = layers_by_group(model) if has_layer_groups(model) else {}
    if name in groups:
        upto = list(groups)[: list(groups).index(name) + 1]
        return [layer for group in upto for layer in groups[group]]
    found = [layer for layer in layers if fnmatch.fnmatchcase(layer.name, name)]
    if not found:
        accepted = ["none", "batch_norm", "backbone", *groups]
        raise ValueError(f"{unknown_name('group of layers', name, accepted)}, or a layer name")
    return found


def _all_layers(model):
    """The layers of a model and of models nested in it, outer before inner."""
    return [
        each
        for layer in model.layers
        for each in (layer, *(_all_layers(layer) if hasattr(layer, "layers") else ()))
    ]


def unfreeze(model, *, batch_norm: str = "frozen") -> None:
    """Lets every group train, in place; `batch_norm` as in :func:`freeze`. Compile afterwards.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0")
    >>> _ = freeze(model)
    >>> unfreeze(model, batch_norm="train")
    >>> all(layer.trainable for layer in model.layers)
    True
    """
    _set_trainable(model, layers_by_group(model), frozen=(), batch_norm=batch_norm)


def _set_trainable(model, groups, *, frozen, batch_norm):
    if batch_norm not in BATCH_NORM:
        raise ValueError(unknown_name("batch_norm", batch_norm, BATCH_NORM))
    for outer in find_backbone(model).path:
        outer.trainable = True  # a frozen outer model would freeze all; may or may not propagate
    for name, layers in groups.items():
        for layer in layers:
            keeps_statistics = batch_norm == "frozen" and name != "head" and _is_batch_norm(layer)
            layer.trainable = name not in frozen and not keeps_statistics


def _is_batch_norm(layer):
    return type(layer).__name__ == "BatchNormalization"


def layer_rates(model, rate: float, decay: float = 0.8) -> dict[str, float]:
    """{layer name: learning rate} for every layer with weights.

    The head has `rate`; each group before it has the rate of the next group times `decay`. Early
    layers are general and need little change (ULMFiT, arXiv 1801.06146; ConvNeXt and BEiT use
    `decay` 0.65 to 0.9). Stock optimizers have one rate, so a custom training loop uses one
    optimizer for each rate (scaling gradients has no effect under Adam)::

        rates = layer_rates(model, 1e-3)
        groups = layer_groups(model).values()  # also the layers of a nested EfficientNet
        layers = [layer for group in groups for layer in group if layer.name in rates]
        optimizers = {rate: keras.optimizers.Adam(rate) for rate in set(rates.values())}
        ...  # in each step, with gradients = {id(variable): gradient}:
        for rate, optimizer in optimizers.items():
            theirs = [layer for layer in layers if rates[layer.name] == rate]
            variables = [v for layer in theirs for v in layer.trainable_variables]
            optimizer.apply_gradients([(gradients[id(v)], v) for v in variables])

    Raises ``ValueError`` for a rate that is not positive, or a decay outside (0, 1].

    >>> from keras_effnet import create_model
    >>> rates = layer_rates(create_model("efficientnetv2-b0"), 1e-3, decay=0.5)
    >>> rates["predictions"], rates["top_conv"], rates["block6h_bn"]
    (0.001, 0.0005, 0.00025)
    """
    if not (isinstance(rate, numbers.Real) and rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate {rate!r} is not a learning rate: give a positive number, e.g. 1e-3")
    if not (isinstance(decay, numbers.Real) and 0 < decay <= 1):
        raise ValueError(f"decay {decay!r} is out of range: give one in (0, 1]")
    groups = layers_by_group(model)
    if "head" not in groups:
        groups["head"] = ()
    return {
        layer.name: rate * decay**depth
        for depth, layers in enumerate(reversed(groups.values()))
        for layer in layers
        if layer.weights
    }


@dataclass(frozen=True)
class UnfreezePhase:
    """Epochs [first_epoch, end_epoch) in which the groups after `freeze_up_to` train."""

    first_epoch: int
    end_epoch: int
    freeze_up_to: str | None  # None: everything trains
    trains: tuple[str, ...]


def unfreeze_schedule(
    groups: Iterable[str], epochs: int, *, epochs_each: int = 1
) -> tuple[UnfreezePhase, ...]:
    """Gradual unfreezing: one :class:`UnfreezePhase` every `epochs_each`, each with one more group.

    `groups` are the names in the model's order, e.g. ``layer_groups(model)``. The head trains
    first, then also the group before it, and so on until `epochs` have passed; the last phase takes
    the remaining epochs (ULMFiT, arXiv 1801.06146). Changes nothing: each phase needs its own
    compile, at which Keras reads ``trainable`` (changing it in a callback during ``fit`` has no
    effect on TensorFlow, where the step is already traced, and breaks the JAX trainer)::

        for phase in unfreeze_schedule(layer_groups(model), epochs=10):
            freeze(model, phase.freeze_up_to) if phase.freeze_up_to else unfreeze(model)
            model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
            model.fit(images, labels, initial_epoch=phase.first_epoch, epochs=phase.end_epoch)

    Raises ``ValueError`` for numbers of epochs below 1, or no groups.

    >>> for phase in unfreeze_schedule(["stem", "block1", "head"], epochs=6, epochs_each=2):
    ...     print(phase.first_epoch, phase.end_epoch, phase.freeze_up_to, *phase.trains)
    0 2 block1 head
    2 4 stem block1 head
    4 6 None stem block1 head
    """
    names = list(groups)
    if not names:
        raise ValueError("there are no groups: give layer_groups(model)")
    for what, value in (("epochs", epochs), ("epochs_each", epochs_each)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{what} {value!r} is invalid: give a whole number of at least 1")
    phases = []
    for i, first in enumerate(range(0, epochs, epochs_each)[: len(names)]):
        last = i == len(names) - 1
        frozen = len(names) - 1 - i
        phases.append(
            UnfreezePhase(
                first_epoch=first,
                end_epoch=epochs if last else min(first + epochs_each, epochs),
                freeze_up_to=names[frozen - 1] if frozen else None,
                trains=tuple(names[frozen:]),
            )
        )
    return tuple(phases)
