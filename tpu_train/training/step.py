"""The traced training step, which runs on every replica, several times per host call.

Forward and backward pass of the replica's part of the batch (in gradient-accumulation steps, if the
phase has them), gradients and batch-norm statistics summed over the replicas, then one update of
the weights and their moving averages. All variables that a step changes are in :class:`TrainState`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_effnet.finetuning import has_layer_groups, layer_groups, layer_rates, select_layers
from tpu_train.input_pipeline.mixup import apply_mixing
from tpu_train.input_pipeline.targets import training_targets
from tpu_train.recipes.phases import Phase, rows_of
from tpu_train.recipes.schema import Recipe
from tpu_train.training import distributed_layers, ema, optimizers
from tpu_train.training.distribution import runs_on_cpu
from tpu_train.training.teacher import Teacher, with_distillation

_INITIAL_LOSS_SCALE = 2.0**15
_GROWTH_STEPS = 2000  # without overflow, after which the float16 loss scale is doubled


@contextlib.contextmanager
def graph_rewriting(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Disables TensorFlow's graph optimizer on a CPU, where it costs more time than it saves
    (docs/results/phase-start.md).
    """
    before = tf.config.optimizer.get_experimental_options()
    if runs_on_cpu(strategy):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@dataclass(frozen=True)
class TrainState:
    """The variables that a step changes: plain tf.Variables of the strategy."""

    trainable: list[tf.Variable]  # in any phase
    decayed: list[bool]  # for each of them, whether weight decay applies
    trained: dict[str, list[int]]  # freeze of a phase -> indices of the variables that it trains
    optimizer: optimizers.Optimizer
    weights: list[tf.Variable]
    ema_weights: list[tf.Variable]
    # for each weight, the step from which it may change: that of the first phase without it frozen
    first_changes: list[float]
    # layer name -> [(moving variable, momentum), ...] of each batch norm
    moving_statistics: dict[str, list[tuple[tf.Variable, float]]]
    loss_scale: tf.Variable | None  # float16 only
    good_steps: tf.Variable | None  # since the loss scale changed

    @classmethod
    def create(
        cls, model: keras.Model, ema_model: keras.Model, recipe: Recipe, phases: Sequence[Phase]
    ) -> TrainState:
        """The variables of a model and of the clone that holds its EMA weights, and new slots.

        Call it in the strategy's scope. Raises ``ValueError`` for a phase that trains nothing, or
        for layers that the model does not have.
        """
        first_steps = _first_steps(model, phases)
        weights = [v for v in model.trainable_variables if math.isfinite(first_steps[id(v)])]
        trainable = [_variable(v) for v in weights]
        decayed = [
            optimizers.decays(getattr(v, "path", v.name), recipe.weight_decay_on_biases)
            for v in weights
        ]
        rates = _layer_rates(model, recipe.layer_decay)
        batch_norms = [
            layer
            for layer in model.layers
            if isinstance(layer, distributed_layers.GroupedBatchNorm)
        ]
        scales_loss = recipe.precision == "float16"
        return cls(
            trainable=trainable,
            decayed=decayed,
            trained={
                freeze: [i for i, v in enumerate(weights) if id(v) not in _frozen(model, freeze)]
                for freeze in {phase.freeze for phase in phases}
            },
            optimizer=optimizers.make(
                recipe.optimizer,
                trainable,
                decayed,
                weight_decay_mode=recipe.weight_decay_mode,
                settings=optimizers.settings_of(recipe),
                first_steps=[first_steps[id(v)] for v in weights],
                rates=[rates.get(id(v), 1.0) for v in weights],
            ),
            weights=[_variable(v) for v in model.weights],
            ema_weights=[_variable(v) for v in ema_model.weights],
            first_changes=[first_steps[id(v)] for v in model.weights],
            moving_statistics={
                layer.name: [
                    (_variable(v), momentum)
                    for v, momentum in distributed_layers.moving_statistics(
                        layer, recipe.batch_norm_momentum
                    )
                ]
                for layer in batch_norms
            },
            loss_scale=tf.Variable(_INITIAL_LOSS_SCALE, trainable=False) if scales_loss else None,
            good_steps=tf.Variable(0, trainable=False) if scales_loss else None,
        )

    @property
    def variables(self) -> list[tf.Variable]:
        """All of them in a fixed order: the content of a checkpoint."""
        scale = [] if self.loss_scale is None else [self.loss_scale, self.good_steps]
        return [*self.weights, *self.ema_weights, *self.optimizer.slots, *scale]


@dataclass(frozen=True)
class StepSpec:
    """What a traced step depends on. Rates and shapes are read when it is traced."""

    recipe: Recipe
    phase: Phase
    classes: int
    strategy: tf.distribute.Strategy
    model: keras.Model
    state: TrainState
    learning_rate: Callable[[tf.Tensor], tf.Tensor]  # step -> rate
    class_weights: np.ndarray | None = None  # float32 (classes,)
    teacher: Teacher | None = None  # of distillation


def make_step(spec: StepSpec) -> Callable:
    """A replica function (batch, step) -> float32 [3]: loss, correct predictions, gradient norm.

    For ``strategy.run``. Each replica's `batch` has its own images
    (:mod:`tpu_train.input_pipeline.batches`), and `step` is an int64 scalar. The sum of the results
    over the replicas is that of the global batch. Make a new function for every phase.
    """
    recipe, phase, classes, state = spec.recipe, spec.phase, spec.classes, spec.state
    replicas = spec.strategy.num_replicas_in_sync
    local = phase.images // replicas
    part = local // phase.accumulation  # images of one accumulation step
    trained = [state.trainable[i] for i in state.trained[phase.freeze]]
    decayed = [state.decayed[i] for i in state.trained[phase.freeze]]

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        # With several workers, iterators lose the static batch size, which every step needs.
        batch = {k: tf.ensure_shape(v, [local, *v.shape[1:]]) for k, v in batch.items()}
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([recipe.seed, 0xD09], tf.int32), tf.cast(step, tf.int32)
        )
        sums = None
        for i in range(phase.accumulation):
            rows = slice(i * part, (i + 1) * part)
            # One after the other: in parallel they would need the memory of the full batch.
            with tf.control_dependencies(
                tf.nest.flatten(sums, expand_composites=True) if i else []
            ):
                images = tf.identity(batch["image"][rows])
            part_batch = {**{k: v[rows] for k, v in batch.items()}, "image": images}
            first_row, _ = rows_of(context.replica_id_in_sync_group, i, phase, replicas)
            *results, norm_names = forward_and_backward(part_batch, seed, first_row)
            sums = results if sums is None else tf.nest.map_structure(tf.add, sums, results)
        metrics, gradients, statistics = sums
        # One call for all: the strategy packs them into few messages.
        gradients, statistics = context.all_reduce("SUM", [gradients, statistics])
        statistics = tf.nest.map_structure(
            lambda s: s / (replicas * phase.accumulation), statistics
        )
        if state.loss_scale is not None:
            gradients = [g / state.loss_scale for g in gradients]
        if recipe.weight_decay_mode == "l2":
            gradients = optimizers.with_l2(gradients, trained, decayed, recipe.weight_decay)
        gradients, norm = optimizers.clip(gradients, recipe.clip_norm)

        def update(strategy, gradients, statistics, norm, step):
            moments = list(zip(norm_names, statistics))
            _update(spec, strategy, gradients, moments, norm, step)

        context.merge_call(update, args=(gradients, statistics, norm, step))
        return tf.concat([metrics, [norm / replicas]], 0)

    def forward_and_backward(batch, seed, row):
        """[loss, correct], gradients and statistics, to be summed, and the batch norms' names."""
        images, targets = apply_mixing(batch, training_targets(batch, classes, recipe))
        taught = spec.teacher and spec.teacher.logits(images, recipe.loss)
        with (
            distributed_layers.draw(seed, row, phase.images, replicas) as moments,
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(trained)  # nothing is computed for frozen layers
            logits = tf.cast(spec.model(images, training=True), tf.float32)
            # Gradients are summed over the replicas, so the loss is over the global batch.
            terms = losses(recipe.loss, targets, logits, spec.class_weights)
            if taught is not None:
                terms = with_distillation(terms, taught, logits, recipe)
            loss = tf.reduce_sum(terms) / phase.images
            scaled = loss if state.loss_scale is None else loss * state.loss_scale
        gradients = tape.gradient(scaled, trained, unconnected_gradients="zero")
        statistics = [[mean, variance] for _, mean, variance in moments]
        norm_names = [layer.name for layer, _, _ in moments]
        return tf.stack([loss, _correct(batch, logits)]), gradients, statistics, norm_names

    return replica_step


def trace_steps(spec: StepSpec, batches: Iterator) -> Callable:
    """A traced function (iterator, first step, steps) -> float32 [4], summed over the steps.

    The sums are those of :func:`make_step` (loss, correct predictions, gradient norm), and the
    seconds in which no step ran because its batch was not there yet.
    """
    # Autograph would convert hundreds of updates in which there is nothing to convert.
    replica_step = tf.autograph.experimental.do_not_convert(make_step(spec))
    strategy = spec.strategy

    @tf.function(jit_compile=False)  # a TPU compiles what strategy.run receives; XLA:CPU is slow
    def run_steps(batches, first_step, steps):
        sums, waited, idle_since = tf.zeros([3]), tf.zeros([], tf.float64), tf.timestamp()
        for i in tf.range(steps):
            batch = next(batches)
            arrived = _time_after(tf.nest.flatten(batch, True))
            waited += tf.maximum(arrived - idle_since, 0)
            batch = _after(arrived, batch, strategy)
            of_step = strategy.reduce(
                "SUM", strategy.run(replica_step, args=(batch, first_step + i)), axis=None
            )
            idle_since = _time_after([_on_host(strategy, of_step)])
            sums += of_step
        return tf.concat([sums, [tf.cast(waited, tf.float32)]], 0)

    count = tf.TensorSpec([], tf.int64)
    return run_steps.get_concrete_function(batches, count, count)


def _time_after(tensors):
    """The time in seconds at which these tensors exist."""
    with tf.control_dependencies(tensors):
        return tf.timestamp()


def _after(time, batch, strategy):
    """The batch, which no step can use before `time` is read.

    TensorFlow runs ready operations in any order: with one core, it read the clock after the step.
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):  # its hosts have many cores
        return batch

    def later(tensor):
        with tf.control_dependencies([time]), tf.device(tensor.device):
            return tf.identity(tensor)

    return tf.nest.map_structure(later, batch, expand_composites=True)


def _on_host(strategy, tensor):
    """The tensor in host memory; a GPU's own exists from when its computation is enqueued."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return tensor  # there already, perhaps of another machine
    with tf.device("CPU:0"):
        return tf.identity(tensor)


def _update(spec, strategy, gradients, moments, norm, step):
    """Updates weights, moving statistics, EMA and loss scale, in cross-replica context.

    `moments` are (name of a batch norm, [mean, variance]).
    """
    recipe, state = spec.recipe, spec.state
    step = _first(strategy, step)

    def update_all():
        weight_decay = recipe.weight_decay if recipe.weight_decay_mode == "decoupled" else 0.0
        state.optimizer.apply(
            strategy,
            gradients,
            spec.learning_rate(step),
            step,
            weight_decay,
            state.trained[spec.phase.freeze],
        )
        for name, mean_and_variance in moments:
            for (variable, momentum), statistic in zip(
                state.moving_statistics[name], mean_and_variance
            ):

                def move(variable, statistic, rate=1 - momentum):
                    variable.assign_add(rate * (statistic - variable))

                strategy.extended.update(variable, move, args=(statistic,), group=False)
        changed = [first < spec.phase.end_step for first in state.first_changes]
        averages, weights = (
            list(itertools.compress(variables, changed))
            for variables in (state.ema_weights, state.weights)
        )
        ema.update(strategy, averages, weights, recipe.ema_decay, step)

    if state.loss_scale is None:
        update_all()
    else:
        _unless_overflow(strategy, state, tf.math.is_finite(_first(strategy, norm)), update_all)


def _unless_overflow(strategy, state, finite, update_all):
    """Calls `update_all` if the gradient is `finite`, and adapts the loss scale.

    `finite` is the same on every replica.
    """

    def no_overflow():
        update_all()
        grows = state.good_steps + 1 >= _GROWTH_STEPS
        return state.loss_scale * tf.where(grows, 2.0, 1.0), tf.where(
            grows, 0, state.good_steps + 1
        )

    def overflow():
        return tf.maximum(state.loss_scale / 2, 1.0), tf.constant(0)

    for variable, value in zip(
        (state.loss_scale, state.good_steps), tf.cond(finite, no_overflow, overflow)
    ):
        strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,), group=False)


def _frozen(model, freeze):
    """The ids of the weights that a phase does not train."""
    return {id(v) for layer in select_layers(model, freeze) for v in layer.weights}


def _first_steps(model, phases):
    """{id of a weight: the step from which it is not frozen}; infinite if it always is."""
    first_steps = {id(v): math.inf for v in model.weights}
    for phase in reversed(phases):
        frozen = _frozen(model, phase.freeze)
        if all(id(v) in frozen for v in model.trainable_variables):
            raise ValueError(f"freeze {phase.freeze!r} leaves nothing to train: freeze less")
        first_steps.update({v: phase.first_step for v in first_steps if v not in frozen})
    return first_steps


def _layer_rates(model, decay):
    """{id of a weight: its part of the learning rate}."""
    if decay == 1 or not has_layer_groups(model):
        return {}
    rates = layer_rates(model, 1.0, decay)
    layers = [layer for group in layer_groups(model).values() for layer in group]
    return {id(v): rates[layer.name] for layer in layers for v in layer.weights}


def _variable(weight):
    """The tf.Variable of a Keras weight: Keras 3 wraps it, Keras 2 does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def _first(strategy, value):
    return strategy.experimental_local_results(value)[0]


def losses(kind, targets, logits, class_weights=None):
    """The loss of every image, float32 (batch,); each class's term is multiplied by its weight."""
    if kind == "sigmoid":
        terms = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    elif class_weights is None:
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    else:
        terms = -targets * tf.nn.log_softmax(logits)
    if class_weights is not None:
        terms *= tf.constant(class_weights, tf.float32)
    return tf.reduce_sum(terms, -1)


def _correct(batch, logits):
    """The number of images whose best class is one of their labels.

    With keras_cv, it must be the class of the largest target.
    """
    best = tf.argmax(logits, -1, output_type=tf.int32)
    if "target" in batch:
        labels = tf.argmax(batch["target"], -1, output_type=tf.int32)
    else:
        labels = batch["label"]
    if len(labels.shape) == 1:
        labels = labels[:, None]
    return tf.reduce_sum(tf.cast(tf.reduce_any(best[:, None] == labels, -1), tf.float32))
