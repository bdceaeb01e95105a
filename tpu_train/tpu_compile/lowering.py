"""Lowering of the trainer's step to StableHLO: one core's program, with all cores' all-reduces."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tpu_train.input_pipeline.batches import batch_spec
from tpu_train.recipes.phases import checked_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.tpu_compile.compiler import first_line
from tpu_train.training import distributed_layers, model_factory
from tpu_train.training.lr_schedule import learning_rate
from tpu_train.training.step import StepSpec, TrainState, make_step
from tpu_train.training.teacher import Teacher, open_teacher


@dataclass(frozen=True)
class Training:
    """A recipe's network and variables, as one of many cores sees them."""

    recipe: Recipe
    classes: int
    examples: int
    phases: tuple
    strategy: tf.distribute.Strategy
    net: Any
    state: TrainState
    teacher: Teacher | None  # of distillation


@dataclass(frozen=True)
class LoweredStep:
    """One core's train step, ready for the TPU compiler."""

    stablehlo: str
    batch: int  # images per core
    reduced_bytes: int  # summed over the cores by all-reduce


def build_training(recipe: Recipe, cores: int, *, classes: int, examples: int) -> Training:
    """The network and all training variables of a recipe, for :func:`lower_step`.

    The compiler does not depend on values, so pretrained weights are not loaded. Raises
    ``ValueError`` as :func:`tpu_train.recipes.phases.checked_phases` does, and for a teacher of
    another number of classes.
    """
    all_phases = checked_phases(recipe, cores, examples)
    strategy = _OneCoreStrategy(cores)
    teacher = _open_teacher(recipe.teacher, classes, strategy) if recipe.teacher else None
    network = model_factory.training_network(dataclasses.replace(recipe, weights=""), classes)
    with strategy.scope():
        net, ema_net = (
            distributed_layers.training_clone(
                network, batch_norm_group_size=recipe.batch_norm_group_size
            )
            for _ in range(2)
        )
        state = TrainState.create(net, ema_net, recipe, all_phases)
    return Training(recipe, classes, examples, all_phases, strategy, net, state, teacher)


def _open_teacher(path, classes, strategy):
    file = open_teacher(path, strategy)
    if file.classifier.classes != classes:
        raise ValueError(
            f"the teacher {path} has {file.classifier.classes} classes, and the plan is of "
            f"{classes}: give --classes={file.classifier.classes}"
        )
    return Teacher(file, tuple(range(classes)), "")  # in any order


def lower_step(training: Training, phase, batch: int) -> LoweredStep:
    """The :class:`LoweredStep` of a phase with `batch` images per core.

    Raises ``ValueError`` for a step that a TPU cannot run, with the operation and the reason.
    """
    recipe, strategy = training.recipe, training.strategy
    images = batch * strategy.num_replicas_in_sync
    phase = dataclasses.replace(phase, batch_size=images, unlabeled=0)  # of the same cost
    distributed_layers.set_phase(training.net, recipe, phase)

    def rate(step):
        return learning_rate(
            recipe,
            phase,
            step,
            examples=training.examples,
            # The value does not matter: only the shape of the program does.
            total_examples=training.phases[-1].first_example + batch,
        )

    step = make_step(
        StepSpec(
            *(recipe, phase, training.classes, strategy, training.net, training.state, rate),
            teacher=training.teacher,
        )
    )
    stablehlo, reduced_bytes = _lower(step, strategy, batch_spec(phase, batch))
    return LoweredStep(stablehlo, batch, reduced_bytes)


def check_static(stablehlo: str) -> None:
    """Raises ``ValueError``, with the operation's name, if a shape is known only at run time."""
    for line in stablehlo.splitlines():
        if re.search(r"tensor<[^>]*\?", line) and "func.func" not in line:
            operation = re.search(r'(?:stablehlo|mhlo|chlo)\.(\w+)|"(\w+\.\w+)"', line)
            name = _tensorflow_name(stablehlo, line)
            raise ValueError(
                f"The step has a dynamic shape, which a TPU cannot run: {name or operation[0]} "
                f"({operation[0] if operation else 'its result'}). tf.where with one argument, "
                "tf.boolean_mask and tf.unique have results of unknown size: use masks instead"
            )


class _OneCoreStrategy(tf.distribute.OneDeviceStrategy):
    """One core's view of `replicas` cores, as TPUStrategy presents it to the step it traces."""

    def __init__(self, replicas):
        super().__init__("/cpu:0")
        self._replicas = replicas

    @property
    def num_replicas_in_sync(self):
        return self._replicas


class _ReplicaContext(tf.distribute.ReplicaContext):
    """Replica number `replica` (a tensor); `all_reduce` sums over all replicas."""

    def __init__(self, strategy, replica):
        super().__init__(strategy, replica)
        self.reduced_bytes = 0

    def all_reduce(self, reduce_op, value, options=None):
        if str(getattr(reduce_op, "value", reduce_op)).upper() != "SUM":
            raise ValueError(
                f"all_reduce {reduce_op!r} is not supported: a step on a TPU may only sum over "
                "its replicas"
            )
        return tf.nest.pack_sequence_as(value, self._sums(*tf.nest.flatten(value)))

    def _sums(self, *values):
        @tf.custom_gradient
        def sums(*values):
            return [self._sum(v) for v in values], lambda *gradients: self._sums(*gradients)

        return sums(*values)

    def _sum(self, value):
        self.reduced_bytes += value.shape.num_elements() * value.dtype.size
        # The only collective that TensorFlow's CPU build can lower: TPUStrategy's CrossReplicaSum
        # exists only in the TPU build. Both become StableHLO's all_reduce.
        return tf.raw_ops.CollectiveReduceV2(
            input=value,
            group_size=self.num_replicas_in_sync,
            group_key=1,
            instance_key=1,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )


def _lower(replica_step, strategy, spec):
    """(StableHLO text for libtpu, bytes summed over the cores) of a replica's step."""
    reduced = []

    # The replica's number is an argument of the program, as under TPUStrategy.
    @tf.function(jit_compile=True, autograph=False)
    def core_step(step, replica, *batch):
        context = _ReplicaContext(strategy, replica)
        with context:
            metrics = replica_step(dict(zip(spec, batch)), step)
        reduced.append(context.reduced_bytes)
        return metrics

    numbers = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
    try:
        compiler_ir = core_step.experimental_get_compiler_ir(*numbers, *spec.values())
        text = compiler_ir(stage="stablehlo")
    except ValueError as error:
        raise ValueError(_unsupported_operation(error)) from error
    check_static(text)
    return _for_libtpu(text), reduced[-1]


def _unsupported_operation(error):
    """Error message that names the operation which XLA does not have, such as a host callback."""
    operation = re.search(r"Detected unsupported operations[^:]*: (\w+)", str(error))
    if operation is None:
        return f"The step cannot be compiled: {first_line(error)}"
    place = re.search(r'File "([^"]+)", line (\d+)', str(error))
    return (
        f"The step cannot run on a TPU: TPUs have no operation {operation[1]!r}"
        f"{f' ({os.path.basename(place[1])}, line {place[2]})' if place else ''}. Move operations "
        "that need the host (tf.py_function, printing, strings) to the input pipeline or remove "
        "them"
    )


def _tensorflow_name(text, line):
    """The TensorFlow operation that a line of StableHLO comes from; "" if it is not stated."""
    location = re.search(r"loc\(#(loc\d+)\)\s*$", line)
    while location:
        definition = re.search(rf"^#{location[1]} = loc\((.*)\)$", text, re.MULTILINE)
        if definition is None:
            return ""
        name = re.match(r'"([^"]+)"', definition[1])
        if name:
            return name[1]
        location = re.search(r"#(loc\d+)", definition[1])
    return ""


def _for_libtpu(text):
    """StableHLO that libtpu accepts, without the names of the Python lines it comes from."""
    text = re.sub(r"^#loc.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" loc\((?:#loc\d*|unknown|\"[^\"]*\"|fused\[[^\]]*\])\)", "", text)
    # mhlo is not StableHLO. Its copies protect buffers, which the TPU compiler does by itself.
    text = re.sub(
        r"= mhlo\.copy (%\S+) : (tensor<[^>]*>)", r"= stablehlo.reshape \1 : (\2) -> \2", text
    )
    # A channel would order an all-reduce among those of other programs. TPUStrategy's have none,
    # so that the compiler can combine them.
    text = re.sub(r"channel_handle = #stablehlo\.channel_handle<[^>]*>, ", "", text)
    return re.sub(r"^module @\S+", "module @step", text, flags=re.MULTILINE)
