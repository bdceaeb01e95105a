"""Fine-tuning of a quantized network against its float version, without labels.

First block by block: each block is trained on the outputs of the quantized blocks before it to
reproduce the float block's output (block reconstruction: Li et al. 2021, arXiv 2102.05426). Then
the network is trained end to end on the float scores (distillation). The result is a float .tflite
with ranges, for the same quantizer. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tflite.flatbuffer.graph import LINEAR, Graph, Operation, swishes
from tflite.quantization.plan import QuantPlan
from tflite.quantization.tf_interpreter import TFInterpreter

_BATCH = 32
_FORWARD_BATCH = 64
_LAST = ("SOFTMAX", "LOGISTIC")  # an output activation: the loss is computed from the logits


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to fine-tune, in steps of 32 images; 0 steps skip a stage."""

    block_steps: int = 40  # per block
    steps: int = 80  # end to end; half of the images are mirrored
    block_rate: float = 0.02  # learning rate in units of ``TFInterpreter.units``
    rate: float = 0.01
    seed: int = 0  # of the order of the images


@dataclass(frozen=True)
class Block:
    """A part of a network that reads one tensor and writes one tensor."""

    source: int
    operations: tuple[Operation, ...]
    sink: int


def finetune(
    float32_model: bytes,
    ranges: dict,
    plan: QuantPlan,
    images: np.ndarray,
    schedule: Schedule | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[bytes, dict]:
    """(float .tflite, ranges) whose quantized version is closer to the scores of `float32_model`.

    Args:
        float32_model: bytes of a float .tflite.
        ranges: {tensor: {"min", "max"}} to start from.
        plan: the plan that the result will be quantized with.
        images: uint8 (n, height, width, 3), unlabelled; 500 or more.
        schedule: a :class:`Schedule`; None for its defaults.
        log: called with a line of text per block.

    Raises:
        ValueError: an operation that is not supported.
    """
    schedule = schedule or Schedule()
    interpreter = TFInterpreter(Graph(float32_model), ranges, plan)
    graph = interpreter.graph
    first = tf.constant(images[:1], tf.float32)
    interpreter.run({graph.input: first}, graph.operations, quantized=True)  # raises early
    rng = np.random.default_rng(schedule.seed)
    if schedule.block_steps:
        wanted = inputs = images.astype(np.float32)
        parts = blocks(graph)
        for number, block in enumerate(parts, start=1):
            target = _forward(interpreter, block, wanted, quantized=False)
            errors = _fit_block(interpreter, block, (inputs, target), schedule, rng)
            inputs, wanted = _forward(interpreter, block, inputs, quantized=True), target
            log(f"  block {number}/{len(parts)}: error {errors[0]:.4f} -> {errors[1]:.4f}")
    if schedule.steps:
        errors = _fit_scores(interpreter, images, schedule, rng)
        log(f"  scores: KL divergence {errors[0]:.5f} -> {errors[1]:.5f}")
    return interpreter.result()


def blocks(graph: Graph) -> list[Block]:
    """The network as consecutive blocks, each with at least one layer.

    A block ends where a single tensor carries all information, but not before a swish: only the
    error after the swish matters.
    """
    before_swish = {swish.z for swish in swishes(graph)}
    last_read = {}
    for index, op in enumerate(graph.operations):
        for tensor in op.inputs:
            last_read[tensor] = index
    last_read[graph.output] = len(graph.operations)
    parts, begin, source, live = [], 0, graph.input, {graph.input}
    for index, op in enumerate(graph.operations):
        live = {t for t in live | set(op.outputs) if last_read.get(t, -1) > index}
        operations = tuple(graph.operations[begin : index + 1])
        alone = live == {op.output} and op.output not in before_swish
        if alone and any(each.name in LINEAR for each in operations):
            parts.append(Block(source, operations, op.output))
            begin, source = index + 1, op.output
    rest = tuple(graph.operations[begin:])
    if rest and parts:
        last = parts.pop()
        parts.append(Block(last.source, last.operations + rest, graph.output))
    return parts


def _fit_block(interpreter, block, data, schedule, rng):
    """Trains a block; (error before, error after), relative to the mean square of the output."""

    def error(images, goal):
        values = interpreter.run({block.source: images}, block.operations, quantized=True)
        axes = list(range(1, len(goal.shape)))
        scale = tf.reduce_mean(goal**2, axes) + 1e-12
        return tf.reduce_mean(tf.reduce_mean((values[block.sink] - goal) ** 2, axes) / scale)

    variables = _variables(interpreter, block)
    return _fit(error, data, variables, schedule.block_steps, schedule.block_rate, rng)


def _fit_scores(interpreter, images, schedule, rng):
    """Trains everything on the float scores; (KL divergence before, after)."""
    graph = interpreter.graph
    operations = list(graph.operations)
    kind = operations[-1].name
    if kind in _LAST:
        operations.pop()
    block = Block(graph.input, tuple(operations), operations[-1].output)
    images = np.concatenate([images, images[:, :, ::-1]]).astype(np.float32)
    target = _forward(interpreter, block, images, quantized=False)

    def error(batch, goal):
        logits = interpreter.run({block.source: batch}, operations, quantized=True)[block.sink]
        if kind == "LOGISTIC":
            p = tf.sigmoid(goal)
            loss = tf.nn.sigmoid_cross_entropy_with_logits(p, logits)
            least = tf.nn.sigmoid_cross_entropy_with_logits(p, goal)
            return tf.reduce_mean(tf.reduce_sum(loss - least, -1))
        p, q = tf.nn.log_softmax(goal), tf.nn.log_softmax(logits)
        return tf.reduce_mean(tf.reduce_sum(tf.exp(p) * (p - q), -1))

    variables = _variables(interpreter, block)
    return _fit(error, (images, target), variables, schedule.steps, schedule.rate, rng)


def _variables(interpreter, block):
    tensors = {t for op in block.operations for t in [*op.inputs, *op.outputs]}
    return [variable for key, variable in interpreter.offsets.items() if key[0] in tensors]


def _fit(error, data, variables, steps, rate, rng):
    """Trains with Adam and a cosine schedule; restores the variables if the error did not fall.

    Returns (mean error before, after), over all images. Adam is written out here: Keras's rounds
    differently, which would change the int8 files of earlier versions.
    """
    inputs, target = data
    slots = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]

    @tf.function(autograph=False, jit_compile=False)
    def step(batch, goal, number, speed):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = error(batch, goal)
        for v, g, (m, s) in zip(variables, tape.gradient(loss, variables), slots):
            if g is None:
                continue
            m.assign(0.9 * m + 0.1 * g)
            s.assign(0.999 * s + 0.001 * g * g)
            top = m / (1 - 0.9**number)
            v.assign_sub(speed * top / (tf.sqrt(s / (1 - 0.999**number)) + 1e-12))
        return loss

    measure = tf.function(error, autograph=False, jit_compile=False)

    def mean_error():
        batches = [slice(i, i + _BATCH) for i in range(0, len(inputs), _BATCH)]
        sums = [float(measure(inputs[b], target[b])) * len(inputs[b]) for b in batches]
        return sum(sums) / len(inputs)

    initial = [v.numpy() for v in variables]
    before = mean_error()
    batch = min(_BATCH, len(inputs))
    for number in range(steps):
        rows = rng.choice(len(inputs), batch, replace=False)
        speed = rate * 0.5 * (1 + np.cos(np.pi * number / steps))
        step(
            inputs[rows],
            target[rows],
            tf.constant(number + 1.0),
            tf.constant(speed, tf.float32),
        )
    after = mean_error()
    if not after < before:
        for v, value in zip(variables, initial):
            v.assign(value)
        return before, before
    return before, after


def _forward(interpreter, block, images, *, quantized):
    """The block's output for all images, batch by batch."""
    run = tf.function(
        lambda batch: interpreter.run({block.source: batch}, block.operations, quantized=quantized)[
            block.sink
        ],
        autograph=False,
        jit_compile=False,
    )
    parts = range(0, len(images), _FORWARD_BATCH)
    return np.concatenate([run(images[i : i + _FORWARD_BATCH]).numpy() for i in parts])
