"""What is in a .tflite: its ops with their number types, and where its bytes are."""

import io
import zipfile
from dataclasses import dataclass

from tflite import litert

_WEIGHTS = {
    "CONV_2D": "convolution weights",
    "DEPTHWISE_CONV_2D": "convolution weights",
    "TRANSPOSE_CONV": "convolution weights",
    "FULLY_CONNECTED": "classifier weights",
}
_FREE_INPUT = ("GATHER", "SHAPE", "SPLIT", "TRANSPOSE_CONV", "ARG_MAX")  # first input: no values


@dataclass(frozen=True)
class TypedOp:
    """One operator as a delegate looks at it."""

    name: str  # "CONV_2D"; a custom op's own name
    kind: str  # number type: "int8" | "float32" | "int16" | "hybrid" | "uint8->int8" | ...
    output: str  # its first output tensor
    index: int  # of that tensor

    def __str__(self):
        return f"{self.name} {self.kind}"


def read_typed_ops(model):
    """The ops of a .tflite in bytes in the order of execution, as a tuple of :class:`TypedOp`.

    The kind is the number type of an op's values; "hybrid" is float32 values with int8 weights (the
    dynamic range scheme), "a->b" an op that changes the type.
    """
    tools = litert.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(model)
    graph = tree.subgraphs[0]

    def type_of(index):
        return tools.type_to_name(graph.tensors[index].type).lower()

    rows = []
    for op in graph.operators:
        custom = tree.operatorCodes[op.opcodeIndex].customCode
        name = custom.decode() if custom else tools.opcode_to_name(tree, op.opcodeIndex)
        out = type_of(op.outputs[0])
        values = [type_of(i) for i in op.inputs if i >= 0][:1] or [out]
        kind = out if name in _FREE_INPUT or values[0] == out else f"{values[0]}->{out}"
        if name in _WEIGHTS and kind == "float32" and type_of(op.inputs[1]) in ("int8", "int4"):
            kind = "hybrid"
        output = graph.tensors[op.outputs[0]].name.decode()
        rows.append(TypedOp(name, kind, output, int(op.outputs[0])))
    return tuple(rows)


def size_by_part(model):
    """{part: bytes} of a .tflite in bytes, the largest first; they add up to its length.

    Weights are told apart by number type (islands left in float show); "structure" is what is left
    of the file without the rest: names, shapes, padding.
    """
    tools = litert.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(model)
    lengths = [0 if b.data is None else len(b.data) for b in tree.buffers]
    parts = {}
    counted = set()

    def count(part, index):
        if lengths[index] and index not in counted:
            counted.add(index)
            parts[part] = parts.get(part, 0) + lengths[index]

    for graph in tree.subgraphs:
        for op in graph.operators:
            what = _WEIGHTS.get(tools.opcode_to_name(tree, op.opcodeIndex))
            if what is None:
                continue
            for place, index in enumerate(op.inputs):
                if index < 0:
                    continue  # no bias
                tensor = graph.tensors[index]
                if place == 2:
                    count("biases", tensor.buffer)
                elif place == 1:
                    count(f"{what}, {tools.type_to_name(tensor.type).lower()}", tensor.buffer)
    for entry in tree.metadata or []:
        count("labels and metadata", entry.buffer)
    for index in range(len(lengths)):
        count("other constants", index)
    appended = _appended(model)
    if appended:
        parts["labels and metadata"] = parts.get("labels and metadata", 0) + appended
    scales = _scale_bytes(model)
    if scales:
        parts["scales and zero points"] = scales
    parts["structure"] = len(model) - sum(parts.values())
    return dict(sorted(parts.items(), key=lambda item: (-item[1], item[0])))


def _scale_bytes(model):
    """Of the tensors' float32 scales and int64 zero points, each of which several may share."""
    tree = litert.flatbuffer_tools().Model.GetRootAs(model, 0)
    vectors = {}  # where it begins -> its bytes
    for graph in map(tree.Subgraphs, range(tree.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            q = tensor.Quantization()
            for field, size in ((8, 4), (10, 8)) if q is not None else ():
                offset = q._tab.Offset(field)
                if offset:
                    vectors[q._tab.Vector(offset)] = size * q._tab.VectorLen(offset)
    return sum(vectors.values())


def _appended(model):
    """Bytes of the zip archive behind the flatbuffer, which holds associated files."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            starts = [entry.header_offset for entry in archive.infolist()]
    except zipfile.BadZipFile:
        return 0
    return len(model) - min(starts) if starts else 0
