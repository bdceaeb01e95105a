"""A float .tflite as a network that can be changed: its operations, their constants, and who reads
what. The exact preparations, bias correction and fine-tuning work on it.

Changes are made in place; ``network.content()`` gives the file's bytes again.
"""

import collections
import copy
import itertools
from dataclasses import dataclass

import numpy as np

from tflite.flatbuffer import rewrite
from tflite.litert import flatbuffer_tools, schema

LINEAR = rewrite.WITH_WEIGHTS


class Operation:
    """One operation: its type, and its tensors as indices. ``inputs`` may have -1, for none."""

    def __init__(self, name, raw):
        self.name, self.raw = name, raw

    @property
    def inputs(self):
        """Indices of what it reads."""
        return [int(i) for i in self.raw.inputs]

    @property
    def outputs(self):
        """Indices of what it writes."""
        return [int(i) for i in self.raw.outputs]

    @property
    def output(self):
        """Index of the first tensor that it writes."""
        return int(self.raw.outputs[0])

    @property
    def fused(self):
        """The activation inside of the operation: "NONE", "RELU", "RELU6", ..."""
        code = getattr(self.raw.builtinOptions, "fusedActivationFunction", 0)
        names = vars(flatbuffer_tools().ActivationFunctionType).items()
        return next(name for name, value in names if value == code and name.isupper())


class Network:
    """The first subgraph of a .tflite in bytes."""

    def __init__(self, content):
        self._tools = flatbuffer_tools()
        self._tree = self._tools.read_model_from_bytearray(bytearray(content))
        self._graph = self._tree.subgraphs[0]
        self.operations = [
            Operation(self._tools.opcode_to_name(self._tree, op.opcodeIndex), op)
            for op in self._graph.operators
        ]
        self._unshare()

    def content(self):
        """The bytes of the .tflite, aligned; the network can still be changed afterwards."""
        self._graph.operators = [operation.raw for operation in self.operations]
        return rewrite.write(copy.deepcopy(self._tree))

    @property
    def input(self):
        """Index of the image."""
        return int(self._graph.inputs[0])

    @property
    def output(self):
        """Index of the scores."""
        return int(self._graph.outputs[0])

    def name(self, tensor):
        """The tensor's name, which every file made of this one keeps."""
        return self._graph.tensors[tensor].name.decode()

    def shape(self, tensor):
        """As a tuple; () where it says none."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def is_constant(self, tensor):
        """Whether the file holds the tensor's values."""
        return tensor >= 0 and self._data(tensor) is not None

    def constant(self, tensor):
        """A float32 array, a copy."""
        return (
            np.frombuffer(bytes(self._data(tensor)), np.float32).reshape(self.shape(tensor)).copy()
        )

    def is_float(self, tensor):
        """Whether it is of float32 numbers."""
        return self._graph.tensors[tensor].type == self._tools.TensorType.FLOAT32

    def integers(self, tensor):
        """An int32 constant (axes, paddings, shapes)."""
        return np.frombuffer(bytes(self._data(tensor)), np.int32).reshape(self.shape(tensor))

    def set_constant(self, tensor, value):
        """Replaces the values of a float32 constant. A buffer that other tensors share is left to
        them.
        """
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

    def producers(self):
        """{tensor: the operation that writes it}."""
        return {tensor: op for op in self.operations for tensor in op.outputs}

    def consumers(self):
        """{tensor: [operations that read it]}; tensors that nobody reads are left out."""
        found = {}
        for op in self.operations:
            for tensor in dict.fromkeys(op.inputs):
                found.setdefault(tensor, []).append(op)
        return found

    def add_constant(self, name, value):
        """Index of a new float32 constant."""
        return self._add(name, value.shape, self._new_buffer(np.asarray(value, np.float32)))

    def add_tensor(self, name, shape):
        """Index of a new float32 tensor for an operation to write."""
        return self._add(name, shape, 0)

    def insert(self, before, builtin, inputs, output, options=None, options_type=0):
        """Puts a new operation in front of another one."""
        raw = self._tools.OperatorT()
        raw.opcodeIndex = rewrite.opcode(self._tree, getattr(self._tools.BuiltinOperator, builtin))
        raw.inputs, raw.outputs = list(inputs), [output]
        raw.builtinOptions, raw.builtinOptionsType = options, options_type
        self.operations.insert(self.operations.index(before), Operation(builtin, raw))

    def remove(self, operations):
        """Takes operations out; who read their results must read something else by then."""
        gone = set(map(id, operations))
        self.operations = [op for op in self.operations if id(op) not in gone]

    def rewire(self, operation, old, new):
        """Makes an operation read another tensor."""
        operation.raw.inputs = [new if int(i) == old else int(i) for i in operation.raw.inputs]

    def options(self, name):
        """(new options of that name, e.g. "MulOptions", their type) for ``insert``."""
        kind = getattr(self._tools.BuiltinOptions, name)
        return getattr(schema(), f"{name}T")(), kind

    def _unshare(self):
        """Gives every linear operation a kernel and a bias of its own: converters let operations
        share equal ones (biases of zeros), and here one may change without the others.
        """
        readers = collections.Counter(i for op in self.operations for i in set(op.inputs))
        for op in self.operations:
            for tensor in op.inputs[1:] if op.name in LINEAR else ():
                if readers[tensor] > 1 and self.is_constant(tensor) and self.is_float(tensor):
                    readers[tensor] -= 1
                    own = self.add_constant(self.name(tensor), self.constant(tensor))
                    self.rewire(op, tensor, own)

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
        ways = (f"{name}{f'_{n}' if n else ''}" for n in itertools.count())
        name = next(way for way in ways if way.encode() not in names)  # the quantizer asks for it
        row = self._tools.TensorT()
        row.name, row.shape = name.encode(), np.array(shape, np.int32)
        row.type, row.buffer = self._tools.TensorType.FLOAT32, buffer
        self._graph.tensors.append(row)
        return len(self._graph.tensors) - 1


@dataclass(frozen=True, eq=False)
class Swish:
    """z * sigmoid(z), or z * sigmoid(z * factor) with a constant factor a channel."""

    z: int  # the tensor
    factor: "Operation | None"  # the MUL in front of the sigmoid
    logistic: Operation
    product: Operation

    @property
    def operations(self):
        """Its two or three operations."""
        return tuple(op for op in (self.factor, self.logistic, self.product) if op is not None)


def swishes(network):
    """The :class:`Swish`es of a network: what EfficientNets have where others have a relu."""
    readers, writers = network.consumers(), network.producers()
    found = []
    for op in network.operations:
        if op.name != "LOGISTIC":
            continue
        source, factor = op.inputs[0], writers.get(op.inputs[0])
        if factor is not None and (
            factor.name != "MUL" or not network.is_constant(factor.inputs[1])
        ):
            factor = None
        for reader in readers.get(op.output, ()):
            if reader.name != "MUL" or op.output not in reader.inputs:
                continue
            other = next((i for i in reader.inputs if i != op.output), None)
            if other == source:
                found.append(Swish(source, None, op, reader))
            elif factor is not None and other == factor.inputs[0]:
                found.append(Swish(other, factor, op, reader))
    return found
