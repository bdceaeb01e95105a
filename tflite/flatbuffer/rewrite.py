"""Changes to a .tflite that no converter makes: uint8 input and output, short names, sections."""

from __future__ import annotations

import collections
import copy
import struct
from collections.abc import Sequence

import numpy as np

from keras_effnet.litert.runtime import flatbuffer_tools, schema
from keras_effnet.litert.writer import write

_INPUTS, _OUTPUTS, _OPERATIONS = 6, 8, 10  # fields of a SubGraph


def uint8_input(tflite_model: bytes) -> bytes:
    """A .tflite that takes uint8 pixels instead of the same values as float32.

    A DEQUANTIZE op of scale 1 is inserted in front. The input's name and its place in every
    signature stay. (A QUANTIZE from uint8 to int8 gives the same scores, but XNNPACK does not run
    that pair of types. It runs DEQUANTIZE and the later QUANTIZE to int8.)

    Raises:
        ValueError: the model does not have exactly one float32 input.
    """
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(tflite_model)
    types = _types(tree, tree.subgraphs[0].inputs)
    if types != ["FLOAT32"]:
        raise ValueError(f"the model has inputs {types}; uint8_input takes one FLOAT32 input")
    quantization = tools.QuantizationParametersT()
    quantization.scale = np.array([1.0], np.float32)
    quantization.zeroPoint = np.array([0], np.int64)
    _insert_uint8(tree, "input", tools.BuiltinOperator.DEQUANTIZE, quantization, b"_float")
    return write(tree)


def uint8_input_output(tflite_model: bytes) -> bytes:
    """An int8 .tflite with uint8 input and output instead of int8.

    A QUANTIZE op is inserted at both, with the same scale and zero point + 128, so that no value
    changes.

    Raises:
        ValueError: the model does not have one int8 input and one int8 output.
    """
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(tflite_model)
    graph = tree.subgraphs[0]
    types = _types(tree, [*graph.inputs, *graph.outputs])
    if types != ["INT8", "INT8"]:
        raise ValueError(
            f"the model has input and output {types}; uint8_input_output takes one INT8 input and "
            "one INT8 output"
        )
    for end, index in (("input", graph.inputs[0]), ("output", graph.outputs[0])):
        quantization = copy.deepcopy(graph.tensors[index].quantization)
        quantization.zeroPoint = np.asarray(quantization.zeroPoint) + 128
        _insert_uint8(tree, end, tools.BuiltinOperator.QUANTIZE, quantization, b"_int8")
    return write(tree)


def append_softmax(tflite_model: bytes) -> bytes:
    """A float32 .tflite with a softmax after its output, whose name and signature stay."""
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(tflite_model))
    graph = tree.subgraphs[0]
    outer = _outer_tensor(tree, "output", b"_logits")
    op = tools.OperatorT()
    op.opcodeIndex = opcode(tree, tools.BuiltinOperator.SOFTMAX)
    op.inputs, op.outputs = [int(graph.outputs[0])], [outer]
    op.builtinOptionsType, op.builtinOptions = (
        tools.BuiltinOptions.SoftmaxOptions,
        schema().SoftmaxOptionsT(),
    )
    op.builtinOptions.beta = 1.0
    graph.operators.append(op)
    _move_end(tree, "output", outer)
    return write(tree)


def _types(tree, indices):
    return [flatbuffer_tools().type_to_name(tree.subgraphs[0].tensors[i].type) for i in indices]


def _insert_uint8(tree, end, builtin, quantization, suffix):
    """Puts an op between a new uint8 tensor and the present input or output of a ``ModelT``. The
    new tensor takes over the name; `suffix` is appended to that of the old one.
    """
    tools, graph = flatbuffer_tools(), tree.subgraphs[0]
    inner_index = int(getattr(graph, f"{end}s")[0])
    outer_index = _outer_tensor(tree, end, suffix)
    outer = graph.tensors[outer_index]
    outer.type, outer.quantization = tools.TensorType.UINT8, quantization
    op = tools.OperatorT()
    op.opcodeIndex = opcode(tree, builtin)
    if end == "input":
        op.inputs, op.outputs = [outer_index], [inner_index]
        graph.operators.insert(0, op)
    else:
        op.inputs, op.outputs = [inner_index], [outer_index]
        graph.operators.append(op)
    _move_end(tree, end, outer_index)


def _outer_tensor(tree, end, suffix):
    """Index of a copy of the input or output tensor; `suffix` is appended to the old one's name."""
    graph = tree.subgraphs[0]
    inner = graph.tensors[int(getattr(graph, f"{end}s")[0])]
    graph.tensors.append(copy.deepcopy(inner))
    inner.name = inner.name + suffix
    return len(graph.tensors) - 1


def _move_end(tree, end, outer_index):
    """Makes a tensor the input or output of the graph and of its signatures."""
    graph = tree.subgraphs[0]
    inner_index = int(getattr(graph, f"{end}s")[0])
    setattr(graph, f"{end}s", [outer_index])
    for signature in tree.signatureDefs or []:
        for tensor in [*signature.inputs, *signature.outputs]:
            if tensor.tensorIndex == inner_index:
                tensor.tensorIndex = outer_index


def short_names(tflite_model: bytes) -> bytes:
    """The same .tflite with shorter tensor names; those of the input and output stay.

    Converters name a fused op after all its layers ("a/conv;a/bn/sub"). The last one is kept,
    without the prefix that all names share.
    """
    tree = flatbuffer_tools().read_model_from_bytearray(tflite_model)
    graph = tree.subgraphs[0]
    ends = {int(i) for i in [*graph.inputs, *graph.outputs]}
    inner = [t for i, t in enumerate(graph.tensors) if i not in ends]
    short = [t.name.split(b";")[-1] for t in inner]
    prefixes = collections.Counter(name.split(b"/")[0] for name in short if b"/" in name)
    prefix = max(prefixes, key=prefixes.get, default=b"") + b"/"
    short = [name.removeprefix(prefix) for name in short]
    counts = collections.Counter([*short, *(graph.tensors[i].name for i in ends)])
    for tensor, name in zip(inner, short):
        if counts[name] == 1:
            tensor.name = name
    return write(tree)


def section(
    tflite_model: bytes, first: int, last: int, *, inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """A .tflite of the operations at the positions `first` to `last`.

    Args:
        tflite_model: bytes.
        first: position of an operation.
        last: position of an operation, not before `first`.
        inputs: indices of the tensors that the operations read, without constants.
        outputs: indices of tensors that the operations write.
    """
    content = bytearray(tflite_model)
    table = flatbuffer_tools().Model.GetRootAs(content, 0).Subgraphs(0)._tab
    operations = table.Vector(table.Offset(_OPERATIONS)) + 4 * first - 4  # after the new length
    struct.pack_into("<I", content, operations, last - first + 1)
    _point(content, table, _OPERATIONS, operations)
    for field, tensors in ((_INPUTS, inputs), (_OUTPUTS, outputs)):
        content += bytes(-len(content) % 4)
        _point(content, table, field, len(content))
        content += struct.pack(f"<{len(tensors) + 1}I", len(tensors), *tensors)
    return bytes(content)


def _point(content, table, field, position):
    """Lets a field of a flatbuffer's table refer to a vector at `position`."""
    place = table.Pos + table.Offset(field)
    struct.pack_into("<I", content, place, position - place)


def opcode(tree, builtin: int) -> int:
    """Index of a builtin operator code in a ``ModelT``; adds the code if it is missing."""
    tools = flatbuffer_tools()
    for index, code in enumerate(tree.operatorCodes):
        if tools.get_builtin_code_from_operator_code(code) == builtin:
            return index
    code = tools.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin  # both: old readers use the second
    code.version = 1
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1
