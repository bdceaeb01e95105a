"""Networks that are not of this package: ``--model=module:function`` and ``--model=file.keras``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import keras

from keras_effnet.model_graph import connect, graph_of
from keras_effnet.weight_transfer import copy_weights
from tpu_train.imported_function import describe, import_function
from tpu_train.training.imported_weights import (
    SUFFIXES,
    classifier_of,
    load_into,
    reverse_first_kernel,
)
from tpu_train.training.pixel_scaling import scaling_of

CONTRACT = (
    "it must be a function with keras.applications' arguments weights, input_tensor, classes and "
    "classifier_activation, which returns a functional or sequential keras.Model from images of "
    "any size, with pixels in [-1, 1], to logits (batch, classes): see docs/any-network.md"
)
_SCORES = ("softmax", "sigmoid")


def check_function(name: str) -> None:
    """Raises ``ValueError`` unless ``module:function`` is a function with the right arguments."""
    function = import_function("model", name)
    try:
        inspect.signature(function).bind(
            weights=None, input_tensor=None, classes=2, classifier_activation=None
        )
    except TypeError as error:
        raise ValueError(f"model {name!r} cannot be called ({error}): {CONTRACT}") from error


def network_of_function(
    name: str, classes: int, sizes: Sequence[int], weights: str = "", *, any_size: bool = True
) -> keras.Model:
    """The model that ``module:function`` builds, from RGB in [0, 255] to logits (batch, classes).

    Args:
        name: the function; it follows `CONTRACT`.
        classes: a classifier for another number is replaced by a new one.
        sizes: of the images that the network must accept.
        weights: "", a file, or a name that the function knows.
        any_size: whether the model's input has no size, if the network allows it.
    """
    check_function(name)
    function = import_function("model", name)
    scaling = scaling_of(function)
    side = _only(sizes)

    def build(count, size=None, weights=None):
        image = keras.Input((size, size, 3))
        arguments = {} if count is None else {"classes": count}
        try:
            network = function(
                weights=weights, input_tensor=image, classifier_activation=None, **arguments
            )
        except Exception as error:  # of the user's code
            if size is None and side and isinstance(error, (TypeError, ValueError)):
                return build(count, side, weights)  # a network for one image size, as VGG16
            raise ValueError(f"model {name!r} failed: {describe(error)[:300]}") from error
        if not isinstance(network, keras.Model):
            raise ValueError(f"model {name!r} returned {type(network).__name__}: {CONTRACT}")
        return network

    if not weights:
        network = build(classes)
        shape = _output_shape(network)
        if shape is not None and shape != (None, classes):
            raise ValueError(
                f"model {name!r} returned a model with outputs of shape {shape}, and not "
                f"{(None, classes)}: {CONTRACT}"
            )
    elif weights.endswith(SUFFIXES):
        network = load_into(build, weights, classes)
    else:  # a name, e.g. imagenet: the function has the classes of these weights
        network = build(None, weights=weights)
    if weights and scaling.reversed:
        reverse_first_kernel(network, weights)
    return _connected(f"model {name!r}", network, classes, sizes, any_size, scaling.layer())


def network_of_file(
    path: str, classes: int, sizes: Sequence[int], *, any_size: bool = True
) -> keras.Model:
    """The model in a .keras or .h5 file, from RGB in [0, 255] to logits (batch, classes).

    The file's model must take such pixels. Its last activation is removed, and its classifier is
    replaced by a new one if it has another number of classes.
    """
    try:
        network = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"--model={path} cannot be loaded: {describe(error)[:300]}") from error
    return _connected(f"--model={path}", network, classes, sizes, any_size, None)


def _connected(what, network, classes, sizes, any_size, scaling):
    """New layers with the network's weights: pixels in [0, 255] -> logits, for all sizes."""
    graph = graph_of(network)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"{what} is not a functional or sequential model with one input and one output: "
            f"{CONTRACT}"
        )
    only = _only(sizes)
    candidates = ([None] if any_size else []) + ([only] if only else [])
    errors = []
    for size in candidates:
        try:
            if size is None:
                for side in sizes:  # the shapes of all layers are known then
                    _rebuilt(network, graph, classes, side, scaling)
            return _rebuilt(network, graph, classes, size, scaling)
        except (TypeError, ValueError) as error:
            errors.append(error)
    fixed = [n for n in graph.inputs[0].shape[1:3] if n is not None]
    why = f"takes images of {fixed[0]} px" if fixed else describe(errors[-1])[:200]
    raise ValueError(
        f"{what} does not accept images of {' and '.join(map(str, sizes))} px ({why}): set "
        f"--image_size to its size, or change the network; {CONTRACT}"
    ) from errors[-1]


def _rebuilt(network, graph, classes, size, scaling):
    copies = _Copies()
    image = keras.Input((size, size, 3))
    pixels = image if scaling is None else copies.of(scaling)(image)
    (outputs,) = connect(graph, [pixels], copies.of)
    rebuilt = keras.Model(image, outputs, name=network.name)
    copies.copy_weights()
    return _with_logits(rebuilt, classes)


class _Copies:
    """A copy of each layer, of the current dtype policy and with a unique name."""

    def __init__(self):
        self.copies, self.names = {}, set()

    def of(self, layer):
        """The copy of a layer; operations without weights are used as they are."""
        if not isinstance(layer, keras.layers.Layer):
            return layer
        if id(layer) not in self.copies:
            config = layer.get_config()
            config.pop("dtype", None)
            name, number = config["name"], 1
            while name in self.names:  # of layers in different nested models
                number += 1
                name = f"{config['name']}_{number}"
            self.names.add(name)
            self.copies[id(layer)] = layer, type(layer).from_config({**config, "name": name})
        return self.copies[id(layer)][1]

    def copy_weights(self):
        """Gives the copies the weights of the layers."""
        for layer, copy in self.copies.values():
            copy_weights(layer, copy)


def _with_logits(network, classes):
    """The network with logits of `classes` classes as its output, without a last activation."""
    head = classifier_of(network)
    tail = network.layers[network.layers.index(head) + 1 :]
    features = head.input
    if _output_shape(network) == (None, classes):
        activation = getattr(head.activation, "__name__", "linear")
        if activation in _SCORES:
            linear = type(head).from_config({**head.get_config(), "activation": "linear"})
            outputs = linear(features)
            copy_weights(head, linear)
        else:
            outputs = head.output
        for layer in tail:
            if not _is_score_layer(layer):
                outputs = layer(outputs)
    else:
        if len(features.shape) == 4:  # a convolution on pooled features, or on all places
            features = keras.layers.GlobalAveragePooling2D(name=f"{head.name}_pool")(features)
        outputs = keras.layers.Dense(classes, name=head.name)(features)
    if tuple(outputs.shape) != (None, classes):
        raise ValueError(f"{network.name} has outputs of shape {tuple(outputs.shape)}: {CONTRACT}")
    return keras.Model(network.inputs[0], outputs, name=network.name)


def _is_score_layer(layer):
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return isinstance(layer, keras.layers.Softmax) or (
        isinstance(layer, keras.layers.Activation) and activation in _SCORES
    )


def _output_shape(network):
    shape = getattr(network, "output_shape", None)
    return shape if isinstance(shape, tuple) else None


def _only(sizes):
    """The size, if all are equal, else 0."""
    return next(iter(sizes)) if len(set(sizes)) == 1 else 0
