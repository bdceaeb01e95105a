"""The traced step: what a phase runs on every replica, many times a host call.

Forward and backward pass of the replica's share of the batch, the gradients summed over the
replicas, then one update of the weights and of their averages. Everything that a step changes is in
:class:`State`.
"""

import contextlib
from dataclasses import dataclass

import tensorflow as tf

from tpu_train import ema, noise, optimizer


@contextlib.contextmanager
def graph_rewriting(strategy):
    """Off on a CPU, where it takes longer (18 s a phase for V2-B0) than it gives back (nothing)."""
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

    rule: optimizer.Rule
    trainable: list
    decayed: list  # which of them have weight decay
    slots: list
    weights: list
    averages: list

    @classmethod
    def of(cls, net, averaged, rule):
        """The variables of a network, of the clone that holds its averages, and new slots."""
        trainable = [_variable(v) for v in net.trainable_variables]
        return cls(
            rule=rule,
            trainable=trainable,
            decayed=[optimizer.decays(getattr(v, "path", v.name)) for v in net.trainable_variables],
            slots=optimizer.create_slots(rule, trainable),
            weights=[_variable(v) for v in net.weights],
            averages=[_variable(v) for v in averaged.weights],
        )

    @property
    def variables(self):
        """All of them, in one order: what a checkpoint holds."""
        slots = [slot for own in self.slots for slot in own]
        return [*self.weights, *self.averages, *slots]


def _variable(weight):
    """The tf.Variable of a Keras weight: Keras 3 wraps it, Keras 2 does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def traced_steps(recipe, phase, classes, strategy, net, state, rate, batches):
    """A traced function (iterator, first step, steps) -> sums of (loss, correct, gradient norm).

    New for every phase: rates are read and shapes are fixed when it is traced.
    """
    replicas = strategy.num_replicas_in_sync

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and 900 updates to look at
    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        # Several workers' iterators forget the batch's size; every step has static shapes.
        own = recipe.batch_size // replicas
        batch = {k: tf.ensure_shape(v, [own, *v.shape[1:]]) for k, v in batch.items()}
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([recipe.seed, 0xD09], tf.int32), tf.cast(step, tf.int32)
        )
        images, targets = _mix(batch, classes, recipe.label_smoothing, phase.mixup > 0)
        with (
            noise.draw(seed, context.replica_id_in_sync_group, replicas),
            tf.GradientTape() as tape,
        ):
            logits = tf.cast(net(images, training=True), tf.float32)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            # Gradients are summed over the replicas, so that the loss is over the global batch.
            loss = tf.reduce_sum(losses) / recipe.batch_size
        gradients = context.all_reduce("SUM", tape.gradient(loss, state.trainable))
        gradients, norm = optimizer.clip(gradients, recipe.clip_norm)
        context.merge_call(update, args=(gradients, step))
        best = tf.argmax(logits, -1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(best == batch["label"], tf.float32))
        return tf.stack([loss, correct, norm / replicas])

    def update(strategy, gradients, step):
        optimizer.apply(
            strategy,
            state.rule,
            state.trainable,
            gradients,
            state.slots,
            state.decayed,
            rate(_first(strategy, step)),
            _first(strategy, step),
            recipe.weight_decay,
        )
        ema.update(
            strategy, state.averages, state.weights, recipe.ema_decay, _first(strategy, step)
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


def _mix(batch, classes, smoothing, mixup):
    """(images, soft labels), smoothed, and with `mixup` mixed with the neighbour in the batch."""
    images = batch["image"]
    targets = tf.one_hot(batch["label"], classes) * (1 - smoothing) + smoothing / classes
    if not mixup:
        return images, targets
    images = tf.cast(images, tf.float32)
    share = batch["mix"]
    return (
        _towards(images, _neighbour(images), share[:, None, None, None]),
        _towards(targets, _neighbour(targets), share[:, None]),
    )


def _towards(own, other, share):
    return share * own + (1 - share) * other


def _neighbour(values):
    """Each pair of a batch swapped."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, [-1, 2, *shape[1:]]), [1]), shape)
