"""Reads how data flows through the layers of a functional model, into nested models too.

Keras has no public API for this. No Keras here: models are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


def require_model(model) -> None:
    """Raises ``ValueError`` for an object that is not a ``keras.Model``."""
    if not hasattr(model, "layers") or not hasattr(model, "_flatten_layers"):
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

    ``visit(layer, values of its inputs, its output tensors)`` returns the value of the outputs of a
    layer. It is called in the order of execution, for the layers of nested models, too.
    """
    known = {id(tensor): value for tensor, value in zip(graph.inputs, values)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            layer = getattr(node, "operation", None) or node.layer
            given = [known[id(t)] for t in flat(node.input_tensors) if id(t) in known]
            outputs = flat(node.output_tensors)
            nested = graph_of(layer)
            if not given or all(id(t) in known for t in outputs):  # an input, a constant
                continue
            if nested is not None and len(given) == len(nested.inputs):
                results = interpret(nested, given, visit)
            else:
                results = [visit(layer, given, outputs)] * len(outputs)
            known.update((id(t), value) for t, value in zip(outputs, results))
    return [known.get(id(tensor)) for tensor in graph.outputs]


def output_layers(graph) -> list:
    """The layer that computes each output of a graph, in nested models the innermost one."""
    return interpret(graph, [None] * len(graph.inputs), lambda layer, given, tensors: layer)


def flat(tensors) -> list:
    """The tensors of a nested list, tuple or dict."""
    if isinstance(tensors, dict):
        tensors = list(tensors.values())
    if not isinstance(tensors, (list, tuple)):
        return [tensors]
    return [t for item in tensors for t in flat(item)]
