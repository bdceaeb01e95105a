"""A trained network for other classes: a new head, what of the body trains, and at which rate."""

import math
import numbers
from dataclasses import dataclass
from typing import Optional

from keras_effnet import model_structure
from keras_effnet.suggestions import unknown_name

BATCH_NORM = ("frozen", "train")


def with_new_head(model, classes, *, dropout_rate=None, activation="softmax"):
    """A model from the same images to (batch, classes), float32, on the same body, with a new head.

    The layers up to the pooling, preprocessing included, are shared, not copied: training one model
    trains both. The new head is dropout (`dropout_rate`; default: the model's own, 0.2 for one that
    has none) and a Dense layer with `activation` that starts at zero, so that it at first says the
    same to everything and sends nothing wild back into the body (as big_vision's transfer does).
    A model without pooling gets average pooling.

    Raises ``ValueError`` for a model that is no EfficientNet itself, or numbers that cannot work.

    >>> from keras_effnet import create_model
    >>> with_new_head(create_model("efficientnetv2-b0"), 5).output_shape
    (None, 5)
    """
    body = model_structure.find_body(model)
    if len(body.path) > 1:
        raise ValueError(
            f"the EfficientNet is nested in {model.name}, which has a head of its own: give "
            f"model.get_layer({body.model.name!r})"
        )
    if isinstance(classes, bool) or not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(f"classes {classes!r} is not a number of classes: give at least 1")
    by_name = {layer.name: layer for layer in model.layers}
    if dropout_rate is None:
        dropout_rate = by_name["top_dropout"].rate if "top_dropout" in by_name else 0.2
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate {dropout_rate!r} is out of range: give one in [0, 1)")

    import keras
    from keras import layers

    pool = next((by_name[n] for n in ("avg_pool", "max_pool") if n in by_name), None)
    if pool is not None:
        x = pool.output
    else:
        data_format = by_name["stem_conv"].data_format
        x = layers.GlobalAveragePooling2D(data_format=data_format, name="avg_pool")(
            by_name["top_activation"].output
        )
    x = layers.Dropout(dropout_rate, name="top_dropout")(x)
    x = layers.Dense(
        int(classes),
        activation=activation,
        kernel_initializer="zeros",
        dtype="float32",
        name="predictions",
    )(x)
    return keras.Model(model.input, x, name=model.name)


def layer_groups(model):
    """{"stem": layers, "block1": layers, ..., "top": layers, "head": layers}, in the model's order.

    "stem" has the preprocessing too, "top" is the last convolution, "head" is pooling, dropout and
    classifier. Layers of a model around the EfficientNet belong to the stem or to the head.

    >>> from keras_effnet import create_model
    >>> list(layer_groups(create_model("efficientnetv2-b0")))
    ['stem', 'block1', 'block2', 'block3', 'block4', 'block5', 'block6', 'top', 'head']
    """
    return model_structure.groups(model)


def freeze(model, up_to="top", *, batch_norm="frozen"):
    """Stops training from the images up to and with the group `up_to`; the rest trains. Changes the
    model in place and returns the names of the frozen groups.

    `up_to` is a name of :func:`layer_groups`; "top" leaves the head alone. It says how the whole
    model is afterwards, whatever was frozen before. **Compile after it**: Keras reads what trains
    when a model is compiled, and an optimizer knows the variables that it was built with.

    Batch norm in the frozen part always keeps its statistics, in training too (so Keras does when
    ``trainable`` is False): they belong to the weights, and a small batch of new images would
    overwrite what a million images told. `batch_norm` says what it does in the part that trains:

    - "frozen" (default): the same. The convolutions around it adapt. For few images, small batches.
    - "train": its statistics and scales follow the new images. For many images in large batches,
      of another kind than the body has seen.

    Layers in the head are none of this policy's business. Dropout and stochastic depth go on in the
    frozen part when the model trains; build with ``drop_path_rate=0`` if they shall not.

    Raises ``ValueError`` for an unknown group, with the nearest names, or an unknown policy.

    >>> from keras_effnet import create_model
    >>> freeze(create_model("efficientnetv2-b0"), up_to="block2")
    ('stem', 'block1', 'block2')
    """
    groups = model_structure.groups(model)
    names = list(groups)
    if up_to not in groups:
        raise ValueError(unknown_name("group", up_to, names))
    _apply(model, groups, frozen=names[: names.index(up_to) + 1], batch_norm=batch_norm)
    return tuple(names[: names.index(up_to) + 1])


def unfreeze(model, *, batch_norm="frozen"):
    """Lets every group train, in place; batch norm as :func:`freeze` says. Compile after it.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0")
    >>> _ = freeze(model)
    >>> unfreeze(model, batch_norm="train")
    >>> all(layer.trainable for layer in model.layers)
    True
    """
    _apply(model, model_structure.groups(model), frozen=(), batch_norm=batch_norm)


def _apply(model, groups, *, frozen, batch_norm):
    if batch_norm not in BATCH_NORM:
        raise ValueError(unknown_name("batch_norm", batch_norm, BATCH_NORM))
    for outer in model_structure.find_body(model).path:
        outer.trainable = True  # or nothing within it would train; may or may not reach its layers
    for name, layers in groups.items():
        for layer in layers:
            keeps_statistics = batch_norm == "frozen" and name != "head" and _is_batch_norm(layer)
            layer.trainable = name not in frozen and not keeps_statistics


def _is_batch_norm(layer):
    return type(layer).__name__ == "BatchNormalization"


def layer_rates(model, rate, decay=0.8):
    """{layer name: learning rate} of every layer with weights: the head's `rate`, times `decay` for
    each group before it.

    Early layers are general and need little change (ULMFiT, arXiv 1801.06146; `decay` 0.65 to 0.9
    in ConvNeXt and BEiT). Stock optimizers have one rate; with a loop of your own, take one
    optimizer a rate (scaling gradients does nothing under Adam)::

        rates = layer_rates(model, 1e-3)
        optimizers = {rate: keras.optimizers.Adam(rate) for rate in set(rates.values())}
        ...  # in each step, with gradients = {id(variable): gradient}:
        for rate, optimizer in optimizers.items():
            layers = [model.get_layer(name) for name in rates if rates[name] == rate]
            variables = [v for layer in layers for v in layer.trainable_variables]
            optimizer.apply_gradients([(gradients[id(v)], v) for v in variables])

    Raises ``ValueError`` for a rate that is not positive or a decay outside of (0, 1].

    >>> from keras_effnet import create_model
    >>> rates = layer_rates(create_model("efficientnetv2-b0"), 1e-3, decay=0.5)
    >>> rates["predictions"], rates["top_conv"], rates["block6h_bn"]
    (0.001, 0.0005, 0.00025)
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate {rate!r} is no learning rate: give a positive number, e.g. 1e-3")
    if not 0 < decay <= 1:
        raise ValueError(f"decay {decay!r} is out of range: give one in (0, 1]")
    groups = model_structure.groups(model)
    if "head" not in groups:
        groups["head"] = ()
    return {
        layer.name: rate * decay**depth
        for depth, layers in enumerate(reversed(groups.values()))
        for layer in layers
        if layer.weights
    }


@dataclass(frozen=True)
class Unfreezing:
    """Epochs [first_epoch, end_epoch) in which the groups after `freeze_up_to` train."""

    first_epoch: int
    end_epoch: int
    freeze_up_to: Optional[str]  # None: everything trains
    trains: tuple[str, ...]


def unfreezing(groups, epochs, *, epochs_each=1):
    """Gradual unfreezing: a tuple of :class:`Unfreezing`, a group more every `epochs_each`.

    `groups` are the names in a model's order (``layer_groups(model)`` will do). The head trains
    first, then with it the group before, ... until `epochs` are over; the last step takes what is
    left (ULMFiT, arXiv 1801.06146). Pure: nothing is changed. Each step needs a compile of its own,
    with which Keras takes note of what trains (a callback that changes ``trainable`` within one
    ``fit`` changes nothing on TensorFlow, where the step is traced already, and breaks the JAX
    trainer)::

        for step in unfreezing(layer_groups(model), epochs=10):
            freeze(model, step.freeze_up_to) if step.freeze_up_to else unfreeze(model)
            model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
            model.fit(images, labels, initial_epoch=step.first_epoch, epochs=step.end_epoch)

    Raises ``ValueError`` for numbers of epochs below 1, or no groups.

    >>> for step in unfreezing(["stem", "block1", "head"], epochs=6, epochs_each=2):
    ...     print(step.first_epoch, step.end_epoch, step.freeze_up_to, *step.trains)
    0 2 block1 head
    2 4 stem block1 head
    4 6 None stem block1 head
    """
    names = list(groups)
    if not names:
        raise ValueError("there are no groups: give layer_groups(model)")
    for what, value in (("epochs", epochs), ("epochs_each", epochs_each)):
        if value < 1 or value != int(value):
            raise ValueError(f"{what} {value!r} cannot work: give a whole number of at least 1")
    steps = []
    for i, first in enumerate(range(0, epochs, epochs_each)):
        if i == len(names):
            break
        last = i == len(names) - 1
        kept = len(names) - 1 - i
        steps.append(
            Unfreezing(
                first_epoch=first,
                end_epoch=epochs if last else min(first + epochs_each, epochs),
                freeze_up_to=names[kept - 1] if kept else None,
                trains=tuple(names[kept:]),
            )
        )
    return tuple(steps)
