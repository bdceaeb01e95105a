"""Reads how data flows through the layers of a functional model, into nested models too.

Keras has no public API for this. No Keras here: models are only read.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence


def require_model(model) -> None:
    """Raises ``ValueError`` for an object that is not a ``keras.Model``."""
    kind = type(model)  # reading an attribute of a model may run its code
    if not hasattr(kind, "layers") or not hasattr(kind, "_flatten_layers"):
        raise ValueError(
            f"{model!r} is a {type(model).__name__}, not a keras.Model: build one with "
            "create_model(name), or load one"
        )


def inner_layers(layer) -> list:
    """The layers directly in a model, wrapper or custom layer, each once."""
    found = {id(x): x for x in layer._flatten_layers(include_self=False, recursive=False)}
    found.pop(id(getattr(layer, "_functional", None)), None)  # the graph of a Sequential
    return list(found.values())


def flat_layers(model, frozen=False) -> Iterator[tuple]:
    """(layer, whether it or a layer around it is frozen) for the innermost layers of a model."""
    for layer in inner_layers(model):
        layer_frozen = frozen or not layer.trainable
        if inner_layers(layer):
            yield from flat_layers(layer, layer_frozen)
        else:
            yield layer, layer_frozen


def graph_of(model):
    """The object with a functional or sequential model's ``inputs`` and ``outputs``, or None."""
    graph = getattr(model, "_functional", None) or model
    try:
        connected = bool(graph.inputs) and bool(graph.outputs) and bool(graph._nodes_by_depth)
    except (AttributeError, ValueError):  # subclassed, or a Sequential without input shape
        return None
    return graph if connected else None


def interpret(graph, values: Sequence, visit: Callable) -> list:
    """The values of a graph's outputs, given those of its inputs.

    ``visit(layer, values of its inputs, node)`` returns the value of the outputs of a layer at that
    call of it. It is called in the order of execution, for the layers of nested models, too.
    """
    known = {id(tensor): value for tensor, value in zip(graph.inputs, values)}
    for layer, node in _calls(graph):
        given = [known[id(t)] for t in flat(node.input_tensors) if id(t) in known]
        outputs = flat(node.output_tensors)
        nested = graph_of(layer)
        if not given or all(id(t) in known for t in outputs):  # an input, a constant
            continue
        if nested is not None and len(given) == len(nested.inputs):
            results = interpret(nested, given, visit)
        else:
            results = [visit(layer, given, node)] * len(outputs)
        known.update((id(t), value) for t, value in zip(outputs, results))
    return [known.get(id(tensor)) for tensor in graph.outputs]


def execute(graph, known: dict, changed: dict | None = None) -> dict:
    """Runs a graph in inference; returns {id(tensor): value} of all tensors, in nested models too.

    `known` holds the values of the inputs, and is completed. With `changed`, {id(tensor): value} of
    some tensor, `known` is that of an earlier run, and `changed` is completed with everything that
    depends on that tensor.
    """
    target = known if changed is None else changed
    values = collections.ChainMap(target, known)
    for layer, node in _calls(graph):
        given, outputs = flat(node.input_tensors), flat(node.output_tensors)
        if all(id(t) in target for t in outputs) or not all(id(t) in values for t in given):
            continue
        nested = graph_of(layer)
        if nested is not None and len(given) == len(nested.inputs):
            inside = zip(nested.inputs, given)
            target.update((id(t), target[id(g)]) for t, g in inside if id(g) in target)
            execute(nested, known, changed)
            results = [target.get(id(t)) for t in nested.outputs]
        elif any(id(t) in target for t in given):
            results = flat(call_node(layer, node, values))
        else:
            continue
        for tensor, value in zip(outputs, results):
            if value is not None:
                target[id(tensor)] = value
    return target


def connect(graph, tensors: Sequence, layer_of: Callable) -> list:
    """The outputs of a graph's layers, connected to other symbolic tensors than its inputs.

    ``layer_of(layer)`` returns the layer to call in a layer's place, which may be the layer itself.
    Nested models are replaced by their layers.
    """
    known = {id(tensor): value for tensor, value in zip(graph.inputs, tensors)}
    for layer, node in _calls(graph):
        given, outputs = flat(node.input_tensors), flat(node.output_tensors)
        nested = graph_of(layer)
        if not given or all(id(t) in known for t in outputs):  # an input, a constant
            continue
        if nested is not None and len(given) == len(nested.inputs):
            results = connect(nested, [known[id(t)] for t in given], layer_of)
        else:
            args, kwargs = _arguments(node, known)
            results = flat(layer_of(layer)(*args, **kwargs))
        known.update((id(t), value) for t, value in zip(outputs, results))
    return [known[id(tensor)] for tensor in graph.outputs]


def all_outputs(graph) -> Iterator[tuple]:
    """(layer, its output tensor) for every call of a layer, in nested models too."""
    for layer, node in _calls(graph):
        nested = graph_of(layer)
        if nested is not None:
            yield from all_outputs(nested)
        for tensor in flat(node.output_tensors):
            yield layer, tensor


def last_call(graph) -> tuple:
    """(layer, input tensors, output tensor) of the innermost layer that computes the output."""
    tensor = graph.outputs[0]
    for layer, node in _calls(graph):
        outputs = flat(node.output_tensors)
        index = next((i for i, t in enumerate(outputs) if t is tensor), None)
        if index is not None:
            nested = graph_of(layer)
            if nested is not None and len(nested.outputs) == 1:
                return last_call(nested)
            return layer, flat(node.input_tensors), tensor
    raise ValueError("the model has no layers between its input and its output")


def last_calls(graph) -> Iterator[tuple]:
    """(layer, its input tensor) from the output backward, up to a layer of several inputs.

    A nested model is one layer.
    """
    calls = {
        id(tensor): (layer, flat(node.input_tensors))
        for layer, node in _calls(graph)
        for tensor in flat(node.output_tensors)
    }
    tensor = graph.outputs[0]
    while True:
        layer, given = calls[id(tensor)]
        if len(given) != 1 or given[0] is tensor:  # an input, in Keras 3 and in Keras 2
            return
        (tensor,) = given
        yield layer, tensor


def _calls(graph):
    """[(layer, node)] of a graph in the order of execution."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            yield getattr(node, "operation", None) or node.layer, node


def inference_layers(graph, kinds: Sequence[str]) -> Iterator:
    """The layers of these classes that a graph calls with ``training=False``, in models too."""
    for layer, node in _calls(graph):
        arguments = getattr(node, "arguments", None)
        kwargs = arguments.kwargs if arguments is not None else getattr(node, "call_kwargs", {})
        nested = graph_of(layer)
        if kwargs.get("training") is False and hasattr(layer, "_flatten_layers"):
            yield from (x for x in layer._flatten_layers() if type(x).__name__ in kinds)
        elif nested is not None:
            yield from inference_layers(nested, kinds)


def call_node(layer, node, values):
    """The output of a layer in inference, called with the arguments of a node.

    `values` is {id(tensor): value} of its input tensors.
    """
    args, kwargs = _arguments(node, values)
    if getattr(layer, "_call_has_training_arg", getattr(layer, "_expects_training_arg", False)):
        kwargs = {**kwargs, "training": False}  # augmentation layers augment by default
    return layer(*args, **kwargs)


def _arguments(node, values):
    """The arguments of a node, with `values` {id(tensor): value} in place of its tensors."""
    if hasattr(node, "arguments"):
        return node.arguments.fill_in(values)
    # Keras 2 takes each value from a list, by text
    tensors = flat(node.input_tensors)
    return node.map_arguments({str(id(t)): [values[id(t)]] * len(tensors) for t in tensors})


def output_layers(graph) -> list:
    """The layer that computes each output of a graph, in nested models the innermost one."""
    return interpret(graph, [None] * len(graph.inputs), lambda layer, given, node: layer)


def flat(tensors) -> list:
    """The tensors of a nested list, tuple or dict."""
    if isinstance(tensors, dict):
        tensors = list(tensors.values())
    if not isinstance(tensors, (list, tuple)):
        return [tensors]
    return [t for item in tensors for t in flat(item)]
