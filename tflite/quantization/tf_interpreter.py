"""Runs a float .tflite network in TensorFlow, in float or with fake quantization.

Fake quantization rounds every tensor as the int8 kernels do (Jacob et al. 2018, arXiv 1712.05877).
Gradients pass straight through the rounding. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_effnet.suggestions import unknown_name
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.plan import QuantPlan

_LOGISTIC = (0.0, 255 / 256)  # the range of every int8 sigmoid kernel
_RANGE_UNIT = 0.2  # of log(end of a range)
_PADDING = ("SAME", "VALID")  # by the schema's code
_FUSED = {"NONE": lambda x: x, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}


class TFInterpreter:
    """A float .tflite network with trainable weights and quantization ranges.

    Every trainable value has its own unit, so that one learning rate fits all: a weight counts in
    steps of its channel's scale, a bias in steps of its output's scale, the end of a range in
    fractions of itself.

    Attributes:
        graph: the :class:`Graph`.
        offsets: {(tensor, "kernel" | "bias" | "low" | "high"): tf.Variable}, changes in units.
        units: {the same key: size of a unit}.
        quantized: the tensors that int8 ops write.
    """

    def __init__(self, graph: Graph, ranges: dict, plan: QuantPlan):
        self.graph, self.ranges = graph, dict(ranges)
        int8 = plan.outputs("int8")
        self.quantized = {op.output for op in graph.operations if graph.name(op.output) in int8}
        self.offsets, self.units = {}, {}
        for op in graph.operations:
            # The weights of linear ops are int8 even if the op computes in float.
            if op.output in self.quantized or op.name in LINEAR:
                self._add_offsets(op)

    def run(self, values: dict, operations: Sequence, *, quantized: bool) -> dict:
        """{tensor: value} with the outputs of the operations added.

        Args:
            values: {tensor: value} of what the operations read.
            operations: a part of ``graph.operations``, in order.
            quantized: whether to apply fake quantization.
        """
        values = dict(values)
        for op in operations:
            int8 = quantized and op.output in self.quantized
            inputs = [self._input(values, op, i, int8, quantized) for i in op.inputs]
            output = compute(op, inputs, self.graph.shape(op.output))
            values[op.output] = self._fake_quantize(op.output, output) if int8 else output
        return values

    def result(self) -> tuple[bytes, dict]:
        """(bytes of the float .tflite with the trained weights, the trained ranges)."""
        ranges = {name: dict(bounds) for name, bounds in self.ranges.items()}
        for (tensor, kind), variable in self.offsets.items():
            change = variable.numpy() * self.units[tensor, kind]
            if kind in ("kernel", "bias"):
                self.graph.set_constant(tensor, self.graph.constant(tensor) + change)
            else:
                end = {"low": "min", "high": "max"}[kind]
                bounds = ranges[self.graph.name(tensor)]
                bounds[end] = float(bounds[end] * np.exp(change))
        return self.graph.content(), ranges

    def _add_offsets(self, op):
        graph = self.graph
        tensors = [i for i in op.inputs if i >= 0 and not graph.is_constant(i)]
        for tensor in dict.fromkeys([*tensors, op.output]):
            fixed = tensor == graph.input or self._is_sigmoid(tensor)
            known = graph.name(tensor) in self.ranges
            if (tensor, "low") not in self.offsets and not fixed and known:
                for end in ("low", "high"):
                    self._add((tensor, end), np.zeros((), np.float32), _RANGE_UNIT)
        if op.name in LINEAR:
            kernel = graph.constant(op.inputs[1])
            axes = _reduced_axes(op, kernel)
            scale = np.maximum(np.abs(kernel).max(axes, keepdims=True), 1e-12) / 127
            self._add((op.inputs[1], "kernel"), np.zeros_like(kernel), scale)
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                bounds = self.ranges[graph.name(op.output)]
                unit = (bounds["max"] - bounds["min"]) / 255
                bias = np.zeros_like(graph.constant(op.inputs[2]))
                self._add((op.inputs[2], "bias"), bias, unit)

    def _add(self, key, zeros, unit):
        self.offsets[key] = tf.Variable(zeros, trainable=False)
        self.units[key] = np.float32(unit)

    def _is_sigmoid(self, tensor):
        return any(op.output == tensor and op.name == "LOGISTIC" for op in self.graph.operations)

    def _input(self, values, op, tensor, int8, quantized):
        if tensor < 0:
            return None
        if tensor in values:
            value = values[tensor]
            rounded = not int8 or tensor in self.quantized  # by the op that wrote it
            return value if rounded else self._fake_quantize(tensor, value)
        graph = self.graph
        if not graph.is_float(tensor):
            return graph.integers(tensor)
        constant = graph.constant(tensor)
        if quantized and op.name in LINEAR and tensor == op.inputs[1]:
            return self._kernel(op, tensor, constant)
        if (tensor, "bias") in self.offsets and quantized:
            return constant + self.offsets[tensor, "bias"] * self.units[tensor, "bias"]
        if int8 and op.name not in LINEAR and constant.any():  # a factor or a mean: one scale
            low, high = min(constant.min(), 0.0), max(constant.max(), 0.0)
            return tf.quantization.fake_quant_with_min_max_vars(constant, low, high)
        return constant

    def _kernel(self, op, tensor, constant):
        kernel = constant + self.offsets[tensor, "kernel"] * self.units[tensor, "kernel"]
        axes = list(_reduced_axes(op, constant))
        scale = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axes, keepdims=True)) / 127
        scale = tf.maximum(scale, 1e-12)
        return kernel + tf.stop_gradient(tf.round(kernel / scale) * scale - kernel)

    def _bounds(self, tensor):
        if self._is_sigmoid(tensor):
            return _LOGISTIC
        bounds = self.ranges[self.graph.name(tensor)]
        low, high = min(bounds["min"], 0.0), max(bounds["max"], 0.0)
        if (tensor, "low") not in self.offsets:
            return low, high
        unit = self.units[tensor, "low"]
        return (
            low * tf.exp(self.offsets[tensor, "low"] * unit),
            high * tf.exp(self.offsets[tensor, "high"] * unit),
        )

    def _fake_quantize(self, tensor, value):
        low, high = self._bounds(tensor)
        return tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=8)


def _reduced_axes(op, kernel):
    """All axes of a kernel but that of the output channels."""
    channels = kernel.ndim - 1 if op.name == "DEPTHWISE_CONV_2D" else 0
    return tuple(i for i in range(kernel.ndim) if i != channels)


def compute(op, inputs: Sequence, shape: Sequence[int]):
    """The output of one operation, with bias and fused activation.

    Args:
        op: an :class:`~tflite.flatbuffer.graph.Operation`.
        inputs: the value of each input; None for an input of index -1.
        shape: of the output, for a batch of 1.

    Raises:
        ValueError: an operation or fused activation that is not implemented here.
    """
    if op.name not in _OPERATIONS:
        raise ValueError(
            f"fine-tuning does not support the operation {op.name}: turn it off for this network "
            "(finetune=False), or use preset int8 or int8_mixed"
        )
    output = _OPERATIONS[op.name](op.raw.builtinOptions, inputs, shape)
    if op.name in LINEAR and len(inputs) > 2 and inputs[2] is not None:
        output = output + inputs[2]
    if op.fused not in _FUSED:
        raise ValueError(unknown_name("activation", op.fused, _FUSED))
    return _FUSED[op.fused](output)


def _conv(options, inputs, shape):
    return tf.nn.conv2d(
        inputs[0],
        tf.transpose(inputs[1], (1, 2, 3, 0)),
        (options.strideH, options.strideW),
        _PADDING[options.padding],
        dilations=(options.dilationHFactor, options.dilationWFactor),
    )


def _depthwise_conv(options, inputs, shape):
    return tf.nn.depthwise_conv2d(
        inputs[0],
        tf.reshape(inputs[1], (*inputs[1].shape[1:3], inputs[0].shape[-1], -1)),
        (1, options.strideH, options.strideW, 1),
        _PADDING[options.padding],
        dilations=(options.dilationHFactor, options.dilationWFactor),
    )


def _fully_connected(options, inputs, shape):
    rows = tf.reshape(inputs[0], (-1, inputs[1].shape[-1]))
    return tf.matmul(rows, inputs[1], transpose_b=True)


def _concatenation(options, inputs, shape):
    batch = tf.shape(next(v for v in inputs if tf.is_tensor(v)))[0]
    parts = [v if tf.is_tensor(v) else tf.repeat(tf.constant(v), batch, axis=0) for v in inputs]
    return tf.concat(parts, options.axis)


def _pooling(pool):
    def compute_pool(options, inputs, shape):
        size = (options.filterHeight, options.filterWidth)
        strides = (options.strideH, options.strideW)
        return pool(inputs[0], size, strides, _PADDING[options.padding])

    return compute_pool


def _mean(options, inputs, shape):
    return tf.reduce_mean(inputs[0], inputs[1].tolist(), keepdims=options.keepDims)


_OPERATIONS = {  # function (options, inputs, output shape) -> output, without bias and activation
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise_conv,
    "FULLY_CONNECTED": _fully_connected,
    "ADD": lambda options, inputs, shape: tf.add(*inputs),
    "SUB": lambda options, inputs, shape: tf.subtract(*inputs),
    "MUL": lambda options, inputs, shape: tf.multiply(*inputs),
    "LOGISTIC": lambda options, inputs, shape: tf.sigmoid(inputs[0]),
    "TANH": lambda options, inputs, shape: tf.tanh(inputs[0]),
    "SOFTMAX": lambda options, inputs, shape: tf.nn.softmax(inputs[0]),
    "MEAN": _mean,
    "RESHAPE": lambda options, inputs, shape: tf.reshape(inputs[0], (-1, *shape[1:])),
    "PAD": lambda options, inputs, shape: tf.pad(inputs[0], inputs[1]),
    "CONCATENATION": _concatenation,
    "AVERAGE_POOL_2D": _pooling(tf.nn.avg_pool2d),
    "MAX_POOL_2D": _pooling(tf.nn.max_pool2d),
}
