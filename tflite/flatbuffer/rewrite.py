"""A .tflite file as a graph: what is in it, and the changes to it that no converter makes.

Whatever is written here has 16-byte aligned buffers, which Python's own writer of the format does
not do; the runtime copies misaligned weights at every start. Whatever is read here may have its
buffers behind the flatbuffer, as ai-edge-quantizer writes them from 256 KiB up: a plain read and
write of such a file loses the weights without a word.
"""

import collections
import copy
import struct
from dataclasses import dataclass

import flatbuffers
import numpy as np

from tflite.litert import flatbuffer_tools

WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # kernel, and a bias
_ALIGNMENT = 16  # of a buffer, as the schema's force_align says


class ConversionError(RuntimeError):
    """A converter's product is not the model that it was made from; no file of it is written."""


@dataclass(frozen=True)
class Op:
    """One operator: its type, its first output tensor, and that tensor's number type."""

    name: str
    output: str
    dtype: str  # "FLOAT32" | "INT8" | ...


def read_ops(model):
    """The ops of a .tflite in bytes, in the order of execution, as a tuple of :class:`Op`."""
    tools = flatbuffer_tools()
    tree = tools.Model.GetRootAs(model, 0)
    graph = tree.Subgraphs(0)
    builtin = {code: name for name, code in vars(tools.BuiltinOperator).items() if name.isupper()}
    rows = []
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        code = tree.OperatorCodes(op.OpcodeIndex())
        custom, known = code.CustomCode(), tools.get_builtin_code_from_operator_code(code)
        output = graph.Tensors(op.Outputs(0))
        name = custom.decode() if custom else builtin.get(known, f"BUILTIN {known}")
        rows.append(Op(name, output.Name().decode(), tools.type_to_name(output.Type())))
    return tuple(rows)


def census(ops):
    """{op name: how many}, the most frequent first.

    >>> census([Op("ADD", "a", "INT8"), Op("MUL", "b", "INT8"), Op("MUL", "c", "FLOAT32")])
    {'MUL': 2, 'ADD': 1}
    """
    counts = collections.Counter(op.name for op in ops)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def activations(model):
    """{name: index} of the float32 tensors of a .tflite in bytes that depend on the image: its
    input and what its ops write, no weights.
    """
    tools = flatbuffer_tools()
    graph = tools.Model.GetRootAs(model, 0).Subgraphs(0)
    written = (graph.Operators(i).OutputsAsNumpy() for i in range(graph.OperatorsLength()))
    indices = np.concatenate([graph.InputsAsNumpy(), *written]).tolist()
    tensors = ((index, graph.Tensors(index)) for index in indices)
    return {t.Name().decode(): i for i, t in tensors if t.Type() == tools.TensorType.FLOAT32}


def uint8_input(model):
    """Bytes of a .tflite that takes uint8 pixels where it took the same values as float32: a
    DEQUANTIZE op of scale 1 in front, and the input's name and place in every signature kept.

    (A QUANTIZE from uint8 to int8 gives the same answers, but XNNPACK does not run that pair of
    types; it runs this op, and the QUANTIZE to int8 that follows somewhere behind it.)

    Raises ``ValueError`` unless the model has one float32 input.
    """
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(model)
    graph = tree.subgraphs[0]
    types = [tools.type_to_name(graph.tensors[i].type) for i in graph.inputs]
    if types != ["FLOAT32"]:
        raise ValueError(f"the model has inputs {types}; uint8_input takes one FLOAT32 input")

    inner_index, outer_index = int(graph.inputs[0]), len(graph.tensors)
    inner = graph.tensors[inner_index]
    outer = copy.deepcopy(inner)
    outer.type = tools.TensorType.UINT8
    outer.quantization = tools.QuantizationParametersT()
    outer.quantization.scale = np.array([1.0], np.float32)
    outer.quantization.zeroPoint = np.array([0], np.int64)
    inner.name = inner.name + b"_float"
    graph.tensors.append(outer)

    step = tools.OperatorT()
    step.opcodeIndex = opcode(tree, tools.BuiltinOperator.DEQUANTIZE)
    step.inputs, step.outputs = [outer_index], [inner_index]
    graph.operators.insert(0, step)
    graph.inputs = [outer_index]
    for signature in tree.signatureDefs or []:
        for tensor in signature.inputs:
            if tensor.tensorIndex == inner_index:
                tensor.tensorIndex = outer_index
    return write(tree)


def short_names(model):
    """The same .tflite in bytes with shorter names of tensors: of the layers that a converter has
    fused ("a/conv;a/bn/sub") the last, without the name that all share. The ends keep theirs.
    """
    tree = flatbuffer_tools().read_model_from_bytearray(model)
    graph = tree.subgraphs[0]
    ends = {int(i) for i in [*graph.inputs, *graph.outputs]}
    inner = [t for i, t in enumerate(graph.tensors) if i not in ends]
    short = [t.name.split(b";")[-1] for t in inner]
    heads = collections.Counter(name.split(b"/")[0] for name in short if b"/" in name)
    head = max(heads, key=heads.get, default=b"") + b"/"
    short = [name.removeprefix(head) for name in short]
    counts = collections.Counter([*short, *(graph.tensors[i].name for i in ends)])
    for tensor, name in zip(inner, short):
        if counts[name] == 1:
            tensor.name = name
    return write(tree)


def uint8_ends(model):
    """Bytes of an int8 .tflite that takes and gives uint8 where it took and gave int8: a QUANTIZE
    op at each end, same scale and zero point + 128, so that no value changes.

    Raises ``ValueError`` unless the model has one int8 input and one int8 output.
    """
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(model)
    graph = tree.subgraphs[0]
    types = [tools.type_to_name(graph.tensors[i].type) for i in [*graph.inputs, *graph.outputs]]
    if types != ["INT8", "INT8"]:
        raise ValueError(f"the model's ends are {types}; uint8_ends takes an INT8 input and output")

    code = opcode(tree, tools.BuiltinOperator.QUANTIZE)
    for ends in (graph.inputs, graph.outputs):
        inner_index, outer_index = int(ends[0]), len(graph.tensors)
        inner = graph.tensors[inner_index]
        outer = copy.deepcopy(inner)
        outer.type = tools.TensorType.UINT8
        outer.quantization.zeroPoint = np.asarray(inner.quantization.zeroPoint) + 128
        inner.name = inner.name + b"_int8"
        graph.tensors.append(outer)
        step = tools.OperatorT()
        step.opcodeIndex = code
        into = ends is graph.inputs
        step.inputs = [outer_index if into else inner_index]
        step.outputs = [inner_index if into else outer_index]
        graph.operators.insert(0 if into else len(graph.operators), step)
        for signature in tree.signatureDefs or []:
            for tensor in [*signature.inputs, *signature.outputs]:
                if tensor.tensorIndex == inner_index:
                    tensor.tensorIndex = outer_index
        if into:
            graph.inputs = [outer_index]
        else:
            graph.outputs = [outer_index]
    return write(tree)


def quantization(model):
    """(dtype, scale, zero point) of the input and of the output of a .tflite in bytes; scale 0 for
    float.
    """
    tools = flatbuffer_tools()
    graph = tools.Model.GetRootAs(model, 0).Subgraphs(0)

    def describe(index):
        tensor = graph.Tensors(index)
        kind, q = tools.type_to_name(tensor.Type()), tensor.Quantization()
        if kind == "FLOAT32" or q is None or not q.ScaleLength():
            return kind, 0.0, 0
        return kind, float(q.Scale(0)), int(q.ZeroPoint(0))

    return describe(graph.Inputs(0)), describe(graph.Outputs(0))


class _Builder(flatbuffers.Builder):
    """Writes the zero points of tensors that have the same once. Nearly all are those of weights,
    zeros of 8 bytes a channel, which would be a tenth of an int8 file.
    """

    def __init__(self):
        super().__init__(1 << 20)  # bytes; it grows
        self._zero_points = {}

    def CreateNumpyVector(self, x):  # noqa: N802
        if x.dtype != np.int64:
            return super().CreateNumpyVector(x)
        key = x.tobytes()
        if key not in self._zero_points:
            self._zero_points[key] = super().CreateNumpyVector(x)
        return self._zero_points[key]


def write(tree):
    """Bytes of a ``ModelT``, every buffer at a multiple of 16 bytes. The tree is used up."""
    tools = flatbuffer_tools()

    class Aligned(tools.BufferT):
        def Pack(self, builder):  # noqa: N802
            if self.data is None or len(self.data) == 0:
                return super().Pack(builder)
            data = bytes(self.data)
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            builder.StartObject(3)
            builder.PrependUOffsetTRelativeSlot(0, vector, 0)
            return builder.EndObject()

    tree.buffers = [Aligned(data=buffer.data) for buffer in tree.buffers]
    for tensor in (tensor for graph in tree.subgraphs for tensor in graph.tensors):
        q = tensor.quantization
        if q is not None and q.scale is not None and q.zeroPoint is not None:
            q.scale, q.zeroPoint = np.asarray(q.scale, "<f4"), np.asarray(q.zeroPoint, "<i8")
    builder = _Builder()
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def biases(model):
    """{output tensor of a convolution or dense layer: (start, scales)} of its int32 bias in the
    bytes of a .tflite: where its values begin, and what a unit of each is worth. Biases of other
    types or in buffers behind the flatbuffer are left out.
    """
    tools = flatbuffer_tools()
    tree = tools.read_model_from_bytearray(model)
    places = tools.Model.GetRootAs(model, 0)
    graph = tree.subgraphs[0]
    found = {}
    for op in graph.operators:
        if tools.opcode_to_name(tree, op.opcodeIndex) not in WITH_WEIGHTS or len(op.inputs) < 3:
            continue
        bias = graph.tensors[op.inputs[2]] if op.inputs[2] >= 0 else None
        if bias is None or bias.type != tools.TensorType.INT32:
            continue
        buffer = places.Buffers(bias.buffer)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            name = graph.tensors[op.outputs[0]].name.decode()
            found[name] = (start, np.asarray(bias.quantization.scale, np.float64))
    return found


def until(model, tensor):
    """Bytes of the .tflite that ends with the op that writes a tensor, which is its output."""
    cut = bytearray(model)
    graph = flatbuffer_tools().Model.GetRootAs(cut, 0).Subgraphs(0)
    for count in range(1, graph.OperatorsLength() + 1):
        index = graph.Operators(count - 1).Outputs(0)
        if graph.Tensors(index).Name().decode() == tensor:
            break
    else:
        raise ValueError(f"no op of the .tflite writes {tensor!r}")
    outputs, operators = (graph._tab.Vector(graph._tab.Offset(field)) for field in (8, 10))
    struct.pack_into("<I", cut, operators - 4, count)  # a vector's length stands before it
    struct.pack_into("<i", cut, outputs, index)
    return bytes(cut)


def misaligned_buffers(model):
    """How many buffers of a .tflite in bytes do not start at a multiple of 16 bytes."""
    tree = flatbuffer_tools().Model.GetRootAs(model, 0)
    count = 0
    for index in range(tree.BuffersLength()):
        buffer = tree.Buffers(index)
        if buffer.Offset():
            count += buffer.Offset() % _ALIGNMENT != 0
        elif buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            count += start % _ALIGNMENT != 0
    return count


def opcode(tree, builtin):
    """The index of a builtin operator code in a ``ModelT``, which gets it if it is not there."""
    tools = flatbuffer_tools()
    for index, code in enumerate(tree.operatorCodes):
        if tools.get_builtin_code_from_operator_code(code) == builtin:
            return index
    code = tools.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin  # both: old readers know the second
    code.version = 1
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1
