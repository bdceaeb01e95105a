"""A float .tflite as a graph that can be changed: operations, constants, and their connections.

Changes are made in place; ``graph.content()`` returns the bytes of the changed model.
"""

from __future__ import annotations

import collections
import copy
import itertools
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import writer
from keras_effnet.litert.ops import WITH_WEIGHTS
from keras_effnet.litert.runtime import flatbuffer_tools, schema
from tflite.flatbuffer import rewrite

LINEAR = WITH_WEIGHTS


class Operation:
    """One operation: its type, and its tensors as indices. An input of -1 means none."""

    def __init__(self, name, raw):
        self.name, self.raw = name, raw

    @property
    def inputs(self) -> list[int]:
        """Indices of the tensors that it reads."""
        return [int(i) for i in self.raw.inputs]

    @property
    def outputs(self) -> list[int]:
        """Indices of the tensors that it writes."""
        return [int(i) for i in self.raw.outputs]

    @property
    def output(self) -> int:
        """Index of the first tensor that it writes."""
        return int(self.raw.outputs[0])

    @property
    def fused(self) -> str:
        """The fused activation: "NONE", "RELU", "RELU6", ..."""
        code = getattr(self.raw.builtinOptions, "fusedActivationFunction", 0)
        names = vars(flatbuffer_tools().ActivationFunctionType).items()
        return next(name for name, value in names if value == code and name.isupper())


class Graph:
    """The first subgraph of a .tflite."""

    def __init__(self, tflite_model: bytes):
        self._tools = flatbuffer_tools()
        self._tree = self._tools.read_model_from_bytearray(bytearray(tflite_model))
        self._graph = self._tree.subgraphs[0]
        self.operations = [
            Operation(self._tools.opcode_to_name(self._tree, op.opcodeIndex), op)
            for op in self._graph.operators
        ]
        self._unshare()

    def content(self) -> bytes:
        """The .tflite, with aligned buffers. The graph can still be changed afterwards."""
        self._graph.operators = [operation.raw for operation in self.operations]
        return writer.write(copy.deepcopy(self._tree))

    @property
    def input(self) -> int:
        """Index of the image tensor."""
        return int(self._graph.inputs[0])

    @property
    def output(self) -> int:
        """Index of the scores tensor."""
        return int(self._graph.outputs[0])

    @property
    def outputs(self) -> list[int]:
        """Indices of all output tensors."""
        return [int(i) for i in self._graph.outputs]

    def name(self, tensor: int) -> str:
        """The name of a tensor; quantization keeps it."""
        return self._graph.tensors[tensor].name.decode()

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor; () for a scalar."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def is_constant(self, tensor: int) -> bool:
        """Whether the file holds the tensor's values."""
        return tensor >= 0 and self._data(tensor) is not None

    def constant(self, tensor: int) -> np.ndarray:
        """A copy of a float32 constant."""
        return (
            np.frombuffer(bytes(self._data(tensor)), np.float32).reshape(self.shape(tensor)).copy()
        )

    def is_float(self, tensor: int) -> bool:
        """Whether the data type is float32."""
        return self._graph.tensors[tensor].type == self._tools.TensorType.FLOAT32

    def integers(self, tensor: int) -> np.ndarray:
        """An int32 constant (axes, paddings, shapes)."""
        return np.frombuffer(bytes(self._data(tensor)), np.int32).reshape(self.shape(tensor))

    def set_constant(self, tensor: int, value: np.ndarray) -> None:
        """Replaces the values of a float32 constant; tensors that share its buffer keep theirs."""
        value = np.ascontiguousarray(value, np.float32)
        if value.shape != self.shape(tensor):
            raise ValueError(
                f"{self.name(tensor)} has shape {self.shape(tensor)}, not {value.shape}"
            )
        row = self._graph.tensors[tensor]
        if sum(other.buffer == row.buffer for other in self._graph.tensors) > 1:
            row.buffer = self._new_buffer(value)
        else:
            self._tree.buffers[row.buffer].data = np.frombuffer(value.tobytes(), np.uint8)

    def producers(self) -> dict[int, Operation]:
        """{tensor: the operation that writes it}."""
        return {tensor: op for op in self.operations for tensor in op.outputs}

    def consumers(self) -> dict[int, list[Operation]]:
        """{tensor: [operations that read it]}; tensors without a reader are left out."""
        readers = {}
        for op in self.operations:
            for tensor in dict.fromkeys(op.inputs):
                readers.setdefault(tensor, []).append(op)
        return readers

    def add_constant(self, name: str, value: np.ndarray) -> int:
        """Adds a float32 constant; returns its index. A name that is taken gets a suffix."""
        return self._add(name, value.shape, self._new_buffer(np.asarray(value, np.float32)))

    def add_tensor(self, name: str, shape: tuple[int, ...]) -> int:
        """Adds a float32 tensor for an operation to write; returns its index."""
        return self._add(name, shape, 0)

    def insert(self, before, builtin, inputs, output, options=None, options_type=0):
        """Inserts a new operation in front of another one."""
        raw = self._tools.OperatorT()
        raw.opcodeIndex = rewrite.opcode(self._tree, getattr(self._tools.BuiltinOperator, builtin))
        raw.inputs, raw.outputs = list(inputs), [output]
        raw.builtinOptions, raw.builtinOptionsType = options, options_type
        self.operations.insert(self.operations.index(before), Operation(builtin, raw))

    def remove(self, operations) -> None:
        """Removes operations. Rewire the readers of their outputs first."""
        removed = set(map(id, operations))
        self.operations = [op for op in self.operations if id(op) not in removed]

    def rewire(self, operation: Operation, old: int, new: int) -> None:
        """Makes an operation read the tensor `new` instead of `old`."""
        operation.raw.inputs = [new if int(i) == old else int(i) for i in operation.raw.inputs]

    def options(self, name: str):
        """(new options object, its type) for ``insert``, e.g. of "MulOptions"."""
        kind = getattr(self._tools.BuiltinOptions, name)
        return getattr(schema(), f"{name}T")(), kind

    def _unshare(self):
        """Copies kernels and biases that several linear operations share, so that each can be
        changed alone. Converters share equal ones, e.g. biases of zeros.
        """
        readers = collections.Counter(i for op in self.operations for i in set(op.inputs))
        for op in self.operations:
            for tensor in op.inputs[1:] if op.name in LINEAR else ():
                if readers[tensor] > 1 and self.is_constant(tensor) and self.is_float(tensor):
                    readers[tensor] -= 1
                    copied = self.add_constant(self.name(tensor), self.constant(tensor))
                    self.rewire(op, tensor, copied)

    def _data(self, tensor):
        data = self._tree.buffers[self._graph.tensors[tensor].buffer].data
        return None if data is None or len(data) == 0 else data

    def _new_buffer(self, value):
        buffer = self._tools.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self._tree.buffers.append(buffer)
        return len(self._tree.buffers) - 1

    def _add(self, name, shape, buffer):
        names = {other.name for other in self._graph.tensors}
        candidates = (f"{name}{f'_{n}' if n else ''}" for n in itertools.count())
        name = next(c for c in candidates if c.encode() not in names)  # the quantizer needs unique
        row = self._tools.TensorT()
        row.name, row.shape = name.encode(), np.array(shape, np.int32)
        row.type, row.buffer = self._tools.TensorType.FLOAT32, buffer
        self._graph.tensors.append(row)
        return len(self._graph.tensors) - 1


@dataclass(frozen=True, eq=False)
class Swish:
    """z * sigmoid(z), or z * sigmoid(z * factor) with a constant factor for each channel."""

    z: int  # the tensor
    factor: Operation | None  # the MUL in front of the sigmoid
    logistic: Operation
    product: Operation

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Its two or three operations."""
        return tuple(op for op in (self.factor, self.logistic, self.product) if op is not None)


def swishes(graph: Graph) -> list[Swish]:
    """Every :class:`Swish` (SiLU) activation of a graph; sigmoid gates are left out."""
    readers, writers = graph.consumers(), graph.producers()
    matches = []
    for op in graph.operations:
        if op.name != "LOGISTIC":
            continue
        source, factor = op.inputs[0], writers.get(op.inputs[0])
        if factor is not None and (factor.name != "MUL" or not graph.is_constant(factor.inputs[1])):
            factor = None
        for reader in readers.get(op.output, ()):
            if reader.name != "MUL" or op.output not in reader.inputs:
                continue
            other = next((i for i in reader.inputs if i != op.output), None)
            if other == source:
                matches.append(Swish(source, None, op, reader))
            elif factor is not None and other == factor.inputs[0]:
                matches.append(Swish(other, factor, op, reader))
    return matches
