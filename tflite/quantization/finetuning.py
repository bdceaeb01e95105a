"""Fine-tuning of a quantized network against its own float version: no labels are needed, and what
comes out is a float .tflite with ranges, for the same quantizer as ever.

The float network is walked with TensorFlow, every tensor rounded as the int8 kernels will round it
(fake quantization: Jacob et al. 2018, arXiv 1712.05877; gradients pass straight through, ranges
learn). First block by block, each on what the quantized blocks before it hand on, towards the float
block's output (block reconstruction: Li et al. 2021, arXiv 2102.05426); then the whole on the float
scores (distillation).

Everything learns in units of its own grid: a weight in steps of its channel's scale, a bias in
steps of its output's, a range in shares of itself; so one learning rate fits all.
"""

import numpy as np

from keras_effnet.suggestions import unknown_name
from tflite.flatbuffer.graph import LINEAR, Graph, swishes

_LOGISTIC = (0.0, 255 / 256)  # the range that every int8 kernel of it has
_BATCH = 32
_BLOCK_RATE, _RATE = 0.02, 0.01
_LAST = ("SOFTMAX", "LOGISTIC")


def finetune(content, ranges, plan, images, *, block_steps=40, steps=80, seed=0, progress=None):
    """(float .tflite, ranges) whose quantized version is nearer to the float scores of `content`.

    Args:
        content: bytes of a float .tflite.
        ranges: {tensor: {"min", "max"}} to begin with.
        plan: the :class:`~tflite.quantization.quantizer.QuantPlan` that it will be quantized by.
        images: uint8 (n, height, width, 3), unlabelled; the more the better, 500 at least.
        block_steps: of 32 images, for each block; 0 for none.
        steps: of 32 images, for the whole, mirrored half of the time; 0 for none.
        seed: of the order of the images.
        progress: called with a line of text now and then.

    Raises:
        ValueError: an operation that cannot be walked.
    """
    import tensorflow as tf  # here: everything else of this package does without

    say = progress or (lambda line: None)
    walk = _Walk(tf, Graph(content), ranges, plan)
    first = tf.constant(images[:1], tf.float32)
    walk.run({walk.network.input: first}, walk.network.operations, rounded=True)  # raises at once
    rng = np.random.default_rng(seed)
    if block_steps:
        want = have = images.astype(np.float32)
        parts = blocks(walk.network)
        for number, part in enumerate(parts, start=1):
            have, want, errors = walk.fit_block(part, have, want, block_steps, rng)
            say(f"  block {number}/{len(parts)}: error {errors[0]:.4f} -> {errors[1]:.4f}")
    if steps:
        errors = walk.fit_scores(images, steps, rng)
        say(f"  scores: divergence {errors[0]:.5f} -> {errors[1]:.5f}")
    return walk.result()


def blocks(network):
    """The operations in runs between the places where one tensor alone carries everything on, each
    with something to learn: (tensor that it reads, operations, tensor that it writes).

    None ends before a swish: what counts is what is left of an error behind it.
    """
    before_swish = {swish.z for swish in swishes(network)}
    last_read = {}
    for index, op in enumerate(network.operations):
        for tensor in op.inputs:
            last_read[tensor] = index
    last_read[network.output] = len(network.operations)
    found, begin, source, live = [], 0, network.input, {network.input}
    for index, op in enumerate(network.operations):
        live = {t for t in live | set(op.outputs) if last_read.get(t, -1) > index}
        part = network.operations[begin : index + 1]
        alone = live == {op.output} and op.output not in before_swish
        if alone and any(each.name in LINEAR for each in part):
            found.append((source, part, op.output))
            begin, source = index + 1, op.output
    rest = network.operations[begin:]
    if rest and found:
        source, part, _ = found.pop()
        found.append((source, part + rest, network.output))
    return found


class _Walk:
    """A float network as TensorFlow computes it, as it is or rounded as planned."""

    def __init__(self, tf, network, ranges, plan):
        self.tf, self.network, self.ranges = tf, network, dict(ranges)
        int8 = {op.output for op in plan.ops if op.precision == "int8"}
        self.rounded = {op.output for op in network.operations if network.name(op.output) in int8}
        self.written = {op.output for op in network.operations if op.output in self.rounded}
        self.moves = {}  # (tensor, what) -> variable in grid units
        self.grid = {}  # (tensor, what) -> the size of a unit
        for op in network.operations:
            if op.output in self.rounded or op.name in LINEAR:  # whose weights are int8 in any case
                self._add_moves(op)

    def _add_moves(self, op):
        network = self.network
        tensors = [i for i in op.inputs if i >= 0 and not network.is_constant(i)]
        for tensor in dict.fromkeys([*tensors, op.output]):
            name = network.name(tensor)
            fixed = tensor == network.input or self._is_sigmoid(tensor)
            if (tensor, "low") not in self.moves and not fixed and name in self.ranges:
                for end in ("low", "high"):
                    self._add((tensor, end), np.zeros((), np.float32), 0.2)
        if op.name in LINEAR:
            kernel = network.constant(op.inputs[1])
            axes = tuple(i for i in range(kernel.ndim) if i != self._channel_axis(op, kernel))
            step = np.maximum(np.abs(kernel).max(axes, keepdims=True), 1e-12) / 127
            self._add((op.inputs[1], "kernel"), np.zeros_like(kernel), step)
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                bounds = self.ranges[network.name(op.output)]
                unit = (bounds["max"] - bounds["min"]) / 255
                self._add(
                    (op.inputs[2], "bias"), np.zeros_like(network.constant(op.inputs[2])), unit
                )

    def _add(self, key, zeros, unit):
        self.moves[key] = self.tf.Variable(zeros, trainable=False)
        self.grid[key] = np.float32(unit)

    @staticmethod
    def _channel_axis(op, kernel):
        return kernel.ndim - 1 if op.name == "DEPTHWISE_CONV_2D" else 0

    def _is_sigmoid(self, tensor):
        return any(op.output == tensor and op.name == "LOGISTIC" for op in self.network.operations)

    # what is computed

    def run(self, env, operations, rounded):
        """{tensor: value} with what the operations write, out of what `env` has."""
        env = dict(env)
        for op in operations:
            int8 = rounded and op.output in self.rounded
            values = [self._value(env, op, i, int8, rounded) for i in op.inputs]
            out = self._compute(op, values)
            env[op.output] = self._round(op.output, out) if int8 else out
        return env

    def _value(self, env, op, tensor, int8, rounded):
        if tensor < 0:
            return None
        if tensor in env:
            value = env[tensor]
            return self._round(tensor, value) if int8 and tensor not in self.written else value
        network = self.network
        if not network.is_float(tensor):
            return network.integers(tensor)
        constant = network.constant(tensor)
        if rounded and op.name in LINEAR and tensor == op.inputs[1]:
            return self._kernel(op, tensor, constant)
        if (tensor, "bias") in self.moves and rounded:
            return constant + self.moves[tensor, "bias"] * self.grid[tensor, "bias"]
        if int8 and op.name not in LINEAR and constant.any():  # a factor, a mean: one scale
            low, high = min(constant.min(), 0.0), max(constant.max(), 0.0)
            return self.tf.quantization.fake_quant_with_min_max_vars(constant, low, high)
        return constant

    def _kernel(self, op, tensor, constant):
        tf = self.tf
        kernel = constant + self.moves[tensor, "kernel"] * self.grid[tensor, "kernel"]
        axes = [i for i in range(constant.ndim) if i != self._channel_axis(op, constant)]
        step = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axes, keepdims=True)) / 127
        step = tf.maximum(step, 1e-12)
        return kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)

    def _bounds(self, tensor):
        if self._is_sigmoid(tensor):
            return _LOGISTIC
        bounds = self.ranges[self.network.name(tensor)]
        low, high = min(bounds["min"], 0.0), max(bounds["max"], 0.0)
        if (tensor, "low") not in self.moves:
            return low, high
        exp, grid = self.tf.exp, self.grid[tensor, "low"]
        return (
            low * exp(self.moves[tensor, "low"] * grid),
            high * exp(self.moves[tensor, "high"] * grid),
        )

    def _round(self, tensor, value):
        low, high = self._bounds(tensor)
        return self.tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=8)

    def _compute(self, op, values):
        tf, options = self.tf, op.raw.builtinOptions
        first = values[0]
        if op.name == "CONV_2D":
            out = tf.nn.conv2d(
                first,
                tf.transpose(values[1], (1, 2, 3, 0)),
                (options.strideH, options.strideW),
                ("SAME", "VALID")[options.padding],
                dilations=(options.dilationHFactor, options.dilationWFactor),
            )
        elif op.name == "DEPTHWISE_CONV_2D":
            out = tf.nn.depthwise_conv2d(
                first,
                tf.reshape(values[1], (*values[1].shape[1:3], first.shape[-1], -1)),
                (1, options.strideH, options.strideW, 1),
                ("SAME", "VALID")[options.padding],
                dilations=(options.dilationHFactor, options.dilationWFactor),
            )
        elif op.name == "FULLY_CONNECTED":
            out = tf.matmul(
                tf.reshape(first, (-1, values[1].shape[-1])), values[1], transpose_b=True
            )
        elif op.name in ("ADD", "SUB", "MUL"):
            out = {"ADD": tf.add, "SUB": tf.subtract, "MUL": tf.multiply}[op.name](*values)
        elif op.name == "LOGISTIC":
            out = tf.sigmoid(first)
        elif op.name == "TANH":
            out = tf.tanh(first)
        elif op.name == "SOFTMAX":
            out = tf.nn.softmax(first)
        elif op.name == "MEAN":
            out = tf.reduce_mean(first, values[1].tolist(), keepdims=options.keepDims)
        elif op.name == "RESHAPE":
            out = tf.reshape(first, (-1, *self.network.shape(op.output)[1:]))
        elif op.name == "PAD":
            out = tf.pad(first, values[1])
        elif op.name == "CONCATENATION":
            count = tf.shape(next(v for v in values if tf.is_tensor(v)))[0]
            rows = [
                v if tf.is_tensor(v) else tf.repeat(tf.constant(v), count, axis=0) for v in values
            ]
            out = tf.concat(rows, options.axis)
        elif op.name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
            pool = tf.nn.avg_pool2d if op.name[0] == "A" else tf.nn.max_pool2d
            size = (options.filterHeight, options.filterWidth)
            strides = (options.strideH, options.strideW)
            out = pool(first, size, strides, ("SAME", "VALID")[options.padding])
        else:
            raise ValueError(
                f"fine-tuning does not know the operation {op.name}: leave it out for this network "
                "(preset int8 or int8_mixed)"
            )
        if op.name in LINEAR and len(values) > 2 and values[2] is not None:
            out = out + values[2]
        fused = {"NONE": lambda x: x, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}
        if op.fused not in fused:
            raise ValueError(unknown_name("activation", op.fused, fused))
        return fused[op.fused](out)

    # what is learned

    def fit_block(self, part, have, want, steps, rng):
        """Moves what is in one block so that its rounded output on `have` is the float output on
        `want`; returns both outputs and the error (a share of the output) before and after.
        """
        tf = self.tf
        source, operations, sink = part
        target = self._mapped(source, operations, sink, want, rounded=False)
        keys = self._keys(operations)

        def error(images, goal):
            got = self.run({source: images}, operations, rounded=True)[sink]
            axes = list(range(1, len(goal.shape)))
            scale = tf.reduce_mean(goal**2, axes) + 1e-12
            return tf.reduce_mean(tf.reduce_mean((got - goal) ** 2, axes) / scale)

        errors = self._fit(error, have, target, keys, steps, _BLOCK_RATE, rng)
        return self._mapped(source, operations, sink, have, rounded=True), target, errors

    def fit_scores(self, images, steps, rng):
        """Moves everything so that the rounded scores are the float ones; returns their divergence
        before and after.
        """
        tf = self.tf
        operations = list(self.network.operations)
        last = operations[-1]
        kind = last.name
        if kind in _LAST:
            operations.pop()
        sink = operations[-1].output
        images = np.concatenate([images, images[:, :, ::-1]]).astype(np.float32)
        target = self._mapped(self.network.input, operations, sink, images, rounded=False)

        def error(batch, goal):
            got = self.run({self.network.input: batch}, operations, rounded=True)[sink]
            if kind == "LOGISTIC":
                p = tf.sigmoid(goal)
                loss = tf.nn.sigmoid_cross_entropy_with_logits(p, got)
                least = tf.nn.sigmoid_cross_entropy_with_logits(p, goal)
                return tf.reduce_mean(tf.reduce_sum(loss - least, -1))
            p, q = tf.nn.log_softmax(goal), tf.nn.log_softmax(got)
            return tf.reduce_mean(tf.reduce_sum(tf.exp(p) * (p - q), -1))

        return self._fit(error, images, target, self._keys(operations), steps, _RATE, rng)

    def _keys(self, operations):
        tensors = {t for op in operations for t in [*op.inputs, *op.outputs]}
        return [key for key in self.moves if key[0] in tensors]

    def _fit(self, error, inputs, target, keys, steps, rate, rng):
        """Adam with a cosine; the moves as they were if they did not help. Mean errors before and
        after, over all images.
        """
        tf = self.tf
        variables = [self.moves[key] for key in keys]
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
            parts = range(0, len(inputs), _BATCH)
            sums = [
                float(measure(inputs[i : i + _BATCH], target[i : i + _BATCH]))
                * len(inputs[i : i + _BATCH])
                for i in parts
            ]
            return sum(sums) / len(inputs)

        kept = [v.numpy() for v in variables]
        before = mean_error()
        batch = min(_BATCH, len(inputs))
        for number in range(steps):
            chosen = rng.choice(len(inputs), batch, replace=False)
            speed = rate * 0.5 * (1 + np.cos(np.pi * number / steps))
            step(
                inputs[chosen],
                target[chosen],
                tf.constant(number + 1.0),
                tf.constant(speed, tf.float32),
            )
        after = mean_error()
        if not after < before:
            for v, value in zip(variables, kept):
                v.assign(value)
            return before, before
        return before, after

    def _mapped(self, source, operations, sink, values, rounded):
        """The operations' output for all values, batch by batch."""
        run = self.tf.function(
            lambda batch: self.run({source: batch}, operations, rounded)[sink],
            autograph=False,
            jit_compile=False,
        )
        parts = [run(values[i : i + 64]).numpy() for i in range(0, len(values), 64)]
        return np.concatenate(parts)

    def result(self):
        """(bytes of the float .tflite with the learned weights, the learned ranges)."""
        ranges = {name: dict(bounds) for name, bounds in self.ranges.items()}
        for (tensor, what), variable in self.moves.items():
            move = variable.numpy() * self.grid[tensor, what]
            if what in ("kernel", "bias"):
                self.network.set_constant(tensor, self.network.constant(tensor) + move)
            else:
                end = {"low": "min", "high": "max"}[what]
                bounds = ranges[self.network.name(tensor)]
                bounds[end] = float(bounds[end] * np.exp(move))
        return self.network.content(), ranges
