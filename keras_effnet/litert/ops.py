"""Reads a .tflite: its ops and their data types, tensors, quantization, and bytes by part."""

from __future__ import annotations

import collections
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import runtime

WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # inputs: x, kernel, bias
ALIGNMENT = 16  # bytes, of a buffer: force_align in the schema

_WEIGHTS = {
    "CONV_2D": "convolution weights",
    "DEPTHWISE_CONV_2D": "convolution weights",
    "TRANSPOSE_CONV": "convolution weights",
    "FULLY_CONNECTED": "classifier weights",
}
_INDEX_INPUT = ("GATHER", "SHAPE", "SPLIT", "TRANSPOSE_CONV", "ARG_MAX")  # input 0: not the values


class ConversionError(RuntimeError):
    """A converted model does not match its source model; no file is written."""


@dataclass(frozen=True)
class Op:
    """One operator of a graph."""

    name: str  # "CONV_2D", or the name of a custom op
    output: str  # name of its first output tensor
    dtype: str  # data type of that tensor: "FLOAT32" | "INT8" | ...
    types: str = ""  # of its values: "int8" | "float32" | "hybrid" | "uint8->int8" | ...
    index: int = -1  # of the output tensor

    def __str__(self):
        return f"{self.name} {self.types}"


def read_ops(tflite_model: bytes) -> tuple[Op, ...]:
    """The ops of a .tflite in execution order, as a tuple of :class:`Op`.

    ``Op.types`` is the data type of the op's values. "hybrid" means float32 values with int8
    weights (dynamic range quantization); "a->b" means that the op converts a to b.
    """
    tools = runtime.flatbuffer_tools()
    model = tools.Model.GetRootAs(tflite_model, 0)
    graph = model.Subgraphs(0)
    builtin = {code: name for name, code in vars(tools.BuiltinOperator).items() if name.isupper()}

    def dtype_of(tensor):
        return tools.type_to_name(graph.Tensors(tensor).Type())

    rows = []
    for op in map(graph.Operators, range(graph.OperatorsLength())):
        code = model.OperatorCodes(op.OpcodeIndex())
        custom, number = code.CustomCode(), tools.get_builtin_code_from_operator_code(code)
        name = custom.decode() if custom else builtin.get(number, f"BUILTIN {number}")
        index = int(op.Outputs(0))
        dtypes = [dtype_of(i) for i in map(op.Inputs, range(op.InputsLength())) if i >= 0]
        weights = dtype_of(op.Inputs(1)) if name in _WEIGHTS else ""
        types = _types(name, dtypes[:1], weights, dtype_of(index))
        rows.append(Op(name, graph.Tensors(index).Name().decode(), dtype_of(index), types, index))
    return tuple(rows)


def _types(name, first_input, weights, output):
    source = output if name in _INDEX_INPUT or not first_input else first_input[0]
    if source != output:
        return f"{source}->{output}".lower()
    return "hybrid" if source == "FLOAT32" and weights in ("INT8", "INT4") else output.lower()


def count_ops(ops: Iterable[Op]) -> dict[str, int]:
    """{op name: number of ops}, the most frequent first.

    >>> count_ops([Op("ADD", "a", "INT8"), Op("MUL", "b", "INT8"), Op("MUL", "c", "FLOAT32")])
    {'MUL': 2, 'ADD': 1}
    """
    counts = collections.Counter(op.name for op in ops)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def activations(tflite_model: bytes) -> dict[str, int]:
    """{name: index} of the float32 tensors that depend on the image: the input and the outputs of
    the ops, without weights.
    """
    tools = runtime.flatbuffer_tools()
    graph = tools.Model.GetRootAs(tflite_model, 0).Subgraphs(0)
    outputs = (graph.Operators(i).OutputsAsNumpy() for i in range(graph.OperatorsLength()))
    indices = np.concatenate([graph.InputsAsNumpy(), *outputs]).tolist()
    tensors = ((index, graph.Tensors(index)) for index in indices)
    return {t.Name().decode(): i for i, t in tensors if t.Type() == tools.TensorType.FLOAT32}


def quantization(tflite_model: bytes) -> tuple[tuple[str, float, int], tuple[str, float, int]]:
    """(dtype, scale, zero point) of the input and of the output; scale 0 for float."""
    tools = runtime.flatbuffer_tools()
    graph = tools.Model.GetRootAs(tflite_model, 0).Subgraphs(0)

    def describe(index):
        tensor = graph.Tensors(index)
        dtype, q = tools.type_to_name(tensor.Type()), tensor.Quantization()
        if dtype == "FLOAT32" or q is None or not q.ScaleLength():
            return dtype, 0.0, 0
        return dtype, float(q.Scale(0)), int(q.ZeroPoint(0))

    return describe(graph.Inputs(0)), describe(graph.Outputs(0))


def bias_locations(tflite_model: bytes) -> dict[str, tuple[int, np.ndarray]]:
    """{output tensor: (offset, scales)} of the int32 biases of convolutions and dense layers.

    The offset is the position of the values in the file's bytes; the scales are float64, one for
    each channel. Biases of other types, and those stored behind the flatbuffer, are left out.
    """
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(tflite_model)
    model = tools.Model.GetRootAs(tflite_model, 0)
    graph = tree.subgraphs[0]
    locations = {}
    for op in graph.operators:
        if tools.opcode_to_name(tree, op.opcodeIndex) not in WITH_WEIGHTS or len(op.inputs) < 3:
            continue
        bias = graph.tensors[op.inputs[2]] if op.inputs[2] >= 0 else None
        if bias is None or bias.type != tools.TensorType.INT32:
            continue
        buffer = model.Buffers(bias.buffer)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            name = graph.tensors[op.outputs[0]].name.decode()
            locations[name] = (start, np.asarray(bias.quantization.scale, np.float64))
    return locations


def buffer_ranges(tflite_model: bytes) -> dict[int, tuple[int, int]]:
    """{buffer index: (start, end)} of the buffers with data, as positions in the file's bytes.

    A buffer is inside the flatbuffer or, as ai-edge-quantizer writes them from 256 KiB up, behind
    it. The end of a truncated file's buffer can lie beyond the file.
    """
    model = runtime.flatbuffer_tools().Model.GetRootAs(tflite_model, 0)
    ranges = {}
    for index, buffer in enumerate(map(model.Buffers, range(model.BuffersLength()))):
        if buffer.Offset():
            ranges[index] = buffer.Offset(), buffer.Offset() + buffer.Size()
        elif buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            ranges[index] = start, start + buffer.DataLength()
    return ranges


def misaligned_buffers(tflite_model: bytes) -> int:
    """Number of buffers that do not start at a multiple of 16 bytes."""
    return sum(start % ALIGNMENT != 0 for start, _ in buffer_ranges(tflite_model).values())


def size_by_part(tflite_model: bytes) -> dict[str, int]:
    """{part: bytes} of a .tflite, the largest first; the sum is the size of the file.

    Weights are listed by data type, so that ops kept in float32 show. "structure" is the rest of
    the file: names, shapes, padding.
    """
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(tflite_model)
    lengths = [0 if b.data is None else len(b.data) for b in tree.buffers]
    parts = collections.Counter()
    counted = set()

    def count(part, index):
        if lengths[index] and index not in counted:
            counted.add(index)
            parts[part] += lengths[index]

    for graph in tree.subgraphs:
        for op in graph.operators:
            weights = _WEIGHTS.get(tools.opcode_to_name(tree, op.opcodeIndex))
            if weights is None:
                continue
            for position, index in enumerate(op.inputs):
                if index < 0:
                    continue  # no bias
                tensor = graph.tensors[index]
                if position == 2:
                    count("biases", tensor.buffer)
                elif position == 1:
                    count(f"{weights}, {tools.type_to_name(tensor.type).lower()}", tensor.buffer)
    for entry in tree.metadata or []:
        count("labels and metadata", entry.buffer)
    for index in range(len(lengths)):
        count("other constants", index)
    parts["labels and metadata"] += _appended_bytes(tflite_model)
    parts["scales and zero points"] = _scale_bytes(tflite_model)
    parts["structure"] = len(tflite_model) - sum(parts.values())
    return dict(sorted((+parts).items(), key=lambda item: (-item[1], item[0])))


def _scale_bytes(tflite_model):
    """Bytes of float32 scales and int64 zero points; tensors may share a vector."""
    model = runtime.flatbuffer_tools().Model.GetRootAs(tflite_model, 0)
    vectors = {}  # start -> bytes
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            q = tensor.Quantization()
            for field, size in ((8, 4), (10, 8)) if q is not None else ():
                offset = q._tab.Offset(field)
                if offset:
                    vectors[q._tab.Vector(offset)] = size * q._tab.VectorLen(offset)
    return sum(vectors.values())


def _appended_bytes(tflite_model):
    """Bytes of the zip archive behind the flatbuffer, which holds associated files."""
    try:
        with zipfile.ZipFile(io.BytesIO(tflite_model)) as archive:
            starts = [entry.header_offset for entry in archive.infolist()]
    except zipfile.BadZipFile:
        return 0
    return len(tflite_model) - min(starts) if starts else 0
