"""The traced step: what a phase runs on every replica, many times a host call.

Forward and backward pass of the replica's share of the batch (in parts, where the phase says so),
gradients and batch-norm statistics summed over the replicas, then one update of the weights and of
their averages. Everything that a step changes is in :class:`State`.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, Optional

import tensorflow as tf

from tpu_train.input_pipeline.mixup import apply_mixing
from tpu_train.input_pipeline.targets import soft_targets
from tpu_train.recipes.phases import rows_of
from tpu_train.training import distributed_layers, ema, optimizers

_FIRST_LOSS_SCALE = 2.0**15
_GROWTH_STEPS = 2000  # without overflow, until float16's loss scale is doubled


@contextlib.contextmanager
def graph_rewriting(strategy):
    """Off on a CPU, where it takes longer than it gives back (docs/results/phase-start.md)."""
    before = tf.config.optimizer.get_experimental_options()
    if "CPU" in strategy.extended.worker_devices[0].upper():
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@dataclass(frozen=True)
class State:
    """The variables that a step changes, all of them plain tf.Variables of the strategy."""

    trainable: list
    decayed: list  # which of them have weight decay
    optimizer: Any  # optimizer.make's: its slots, and the update
    weights: list
    averages: list
    moving: dict  # id of a batch norm -> [(its moving variable, momentum), ...]
    loss_scale: Optional[tf.Variable]  # of float16
    good_steps: Optional[tf.Variable]  # since the loss scale changed

    @classmethod
    def of(cls, net, averaged, recipe):
        """The variables of a network, of the clone that holds its averages, and new slots.

        To be called in the strategy's scope.
        """
        trainable = [_variable(v) for v in net.trainable_variables]
        decayed = [
            optimizers.decays(getattr(v, "path", v.name), recipe.weight_decay_on_biases)
            for v in net.trainable_variables
        ]
        norms = [
            layer for layer in net.layers if isinstance(layer, distributed_layers.GroupedBatchNorm)
        ]
        scales = recipe.precision == "float16"
        return cls(
            trainable=trainable,
            decayed=decayed,
            optimizer=optimizers.make(
                recipe.optimizer, trainable, decayed, weight_decay_mode=recipe.weight_decay_mode
            ),
            weights=[_variable(v) for v in net.weights],
            averages=[_variable(v) for v in averaged.weights],
            moving={
                id(layer): [
                    (_variable(v), share)
                    for v, share in distributed_layers.moved(layer, recipe.batch_norm_momentum)
                ]
                for layer in norms
            },
            loss_scale=tf.Variable(_FIRST_LOSS_SCALE, trainable=False) if scales else None,
            good_steps=tf.Variable(0, trainable=False) if scales else None,
        )

    @property
    def variables(self):
        """All of them, in one order: what a checkpoint holds."""
        scale = [] if self.loss_scale is None else [self.loss_scale, self.good_steps]
        return [*self.weights, *self.averages, *self.optimizer.slots, *scale]


def _variable(weight):
    """The tf.Variable of a Keras weight: Keras 3 wraps it, Keras 2 does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def make_step(recipe, phase, classes, strategy, net, state, rate, class_weights=None):
    """A function (batch, step) -> float32 [3] (loss, correct answers, gradient norm), its shares.

    For ``strategy.run``: each replica's `batch` is its own images'
    (:mod:`tpu_train.input_pipeline.batches`), `step` an int64 scalar, and the sum over the replicas
    is the step's. `rate` maps a step to a learning rate. Rates are read and shapes are fixed when
    it is traced: make a new one for every phase.
    """
    replicas = strategy.num_replicas_in_sync
    own = phase.batch_size // replicas
    part = own // phase.accumulation

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        # Several workers' iterators forget the batch's size; every step has static shapes.
        batch = {k: tf.ensure_shape(v, [own, *v.shape[1:]]) for k, v in batch.items()}
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([recipe.seed, 0xD09], tf.int32), tf.cast(step, tf.int32)
        )
        total = None
        for i in range(phase.accumulation):
            rows = slice(i * part, (i + 1) * part)
            # One part after the other: at once they would need the memory of the whole.
            with tf.control_dependencies(
                tf.nest.flatten(total, expand_composites=True) if i else []
            ):
                images = tf.identity(batch["image"][rows])
            mine = {**{k: v[rows] for k, v in batch.items()}, "image": images}
            first_row, _ = rows_of(context.replica_id_in_sync_group, i, phase, replicas)
            done = forward_and_backward(mine, seed, first_row)
            total = done if total is None else tf.nest.map_structure(tf.add, total, done)
        figures, gradients, statistics = total
        # One call for all: the strategy packs them into few messages.
        gradients, statistics = context.all_reduce("SUM", [gradients, statistics])
        statistics = [s / (replicas * phase.accumulation) for s in statistics]
        if state.loss_scale is not None:
            gradients = [g / state.loss_scale for g in gradients]
        if recipe.weight_decay_mode == "l2":
            gradients = optimizers.with_l2(
                gradients, state.trainable, state.decayed, recipe.weight_decay
            )
        gradients, norm = optimizers.clip(gradients, recipe.clip_norm)
        context.merge_call(update, args=(gradients, statistics, norm, step))
        return tf.concat([figures, [norm / replicas]], 0)

    def forward_and_backward(batch, seed, row):
        """([loss, correct], gradients, statistics) of some images, as shares of the batch's."""
        targets = batch.get("target")  # mixed already, by keras_cv
        if targets is None:
            targets = soft_targets(
                batch["label"], classes, smoothing=recipe.label_smoothing, loss=recipe.loss
            )
        images, targets = apply_mixing(batch, targets)
        with (
            distributed_layers.draw(seed, row, phase.batch_size, replicas) as left,
            tf.GradientTape() as tape,
        ):
            logits = tf.cast(net(images, training=True), tf.float32)
            # Gradients are summed over the replicas, so that the loss is over the global batch.
            loss = tf.reduce_sum(_losses(recipe.loss, targets, logits, class_weights))
            loss /= phase.batch_size
            scaled = loss if state.loss_scale is None else loss * state.loss_scale
        gradients = tape.gradient(scaled, state.trainable, unconnected_gradients="zero")
        norms.clear()
        norms.extend(layer for layer, _, _ in left)
        statistics = [s for _, mean, variance in left for s in (mean, variance)]
        return tf.stack([loss, _correct(batch, logits)]), gradients, statistics

    norms = []  # whose statistics these are, in order; the same at every trace

    def update(strategy, gradients, statistics, norm, step):
        step = _first(strategy, step)

        def go():
            weight_decay = recipe.weight_decay if recipe.weight_decay_mode == "decoupled" else 0.0
            state.optimizer.apply(strategy, gradients, rate(step), step, weight_decay)
            moving = [pair for layer in norms for pair in state.moving[id(layer)]]
            for (variable, momentum), statistic in zip(moving, statistics):

                def move(variable, statistic, share=1 - momentum):
                    variable.assign_add(share * (statistic - variable))

                strategy.extended.update(variable, move, args=(statistic,), group=False)
            ema.update(strategy, state.averages, state.weights, recipe.ema_decay, step)

        if state.loss_scale is None:
            go()
        else:
            _unless_overflown(strategy, state, tf.math.is_finite(_first(strategy, norm)), go)

    return replica_step


def _unless_overflown(strategy, state, finite, go):
    """Runs `go` if the gradient is `finite`, the same on every replica; minds the loss scale."""

    def well():
        go()
        grows = state.good_steps + 1 >= _GROWTH_STEPS
        return state.loss_scale * tf.where(grows, 2.0, 1.0), tf.where(
            grows, 0, state.good_steps + 1
        )

    def overflown():
        return tf.maximum(state.loss_scale / 2, 1.0), tf.constant(0)

    for variable, value in zip(
        (state.loss_scale, state.good_steps), tf.cond(finite, well, overflown)
    ):
        strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,), group=False)


def traced_steps(recipe, phase, classes, strategy, net, state, rate, batches, class_weights=None):
    """A traced function (iterator, first step, steps) -> sums of (loss, correct, gradient norm)."""
    replica_step = tf.autograph.experimental.do_not_convert(  # 900 updates to look at for nothing
        make_step(recipe, phase, classes, strategy, net, state, rate, class_weights)
    )

    @tf.function(jit_compile=False)  # a TPU compiles what strategy.run takes; XLA on a CPU is slow
    def run_steps(batches, first_step, steps):
        sums = tf.zeros([3])
        for i in tf.range(steps):
            sums += strategy.reduce(
                "SUM", strategy.run(replica_step, args=(next(batches), first_step + i)), axis=None
            )
        return sums

    count = tf.TensorSpec([], tf.int64)
    return run_steps.get_concrete_function(batches, count, count)


def _first(strategy, value):
    return strategy.experimental_local_results(value)[0]


def _losses(kind, targets, logits, class_weights):
    """The loss of every image, float32 (batch,); a class's part is multiplied by its weight."""
    if kind == "sigmoid":
        parts = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    elif class_weights is None:
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    else:
        parts = -targets * tf.nn.log_softmax(logits)
    if class_weights is not None:
        parts *= tf.constant(class_weights, tf.float32)
    return tf.reduce_sum(parts, -1)


def _correct(batch, logits):
    """How many images' best class is one of their labels (with keras_cv the heaviest target)."""
    best = tf.argmax(logits, -1, output_type=tf.int32)
    if "target" in batch:
        labels = tf.argmax(batch["target"], -1, output_type=tf.int32)
    else:
        labels = batch["label"]
    if len(labels.shape) == 1:
        labels = labels[:, None]
    return tf.reduce_sum(tf.cast(tf.reduce_any(best[:, None] == labels, -1), tf.float32))
