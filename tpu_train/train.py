"""The loop: walks a recipe's phases with one traced step a phase, on any strategy.

``train(find_recipe("digits"), training, evaluation, workdir, strategy)`` leaves in `workdir`:
``model.keras`` (averaged weights, softmax, normalisation inside), ``labels.txt``, ``recipe.json``,
``metrics.jsonl``, ``curves.png`` and ``tensorboard/``.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_effnet.api import create_model
from tpu_train import ema, noise, optimizer, recipes
from tpu_train.curves import plot_curves
from tpu_train.data import training_batches
from tpu_train.devices import describe
from tpu_train.evaluate import make_evaluation
from tpu_train.phases import phases as make_phases
from tpu_train.progress import Progress
from tpu_train.schedule import learning_rate

_FILES = ("model.keras", "labels.txt", "recipe.json", "metrics.jsonl", "curves.png", "tensorboard")


@dataclass(frozen=True)
class PhaseResult:
    """What one phase took and reached; accuracies are shares of 1 on the evaluation images."""

    number: int
    image_size: int
    steps: int
    seconds: float
    loss: float  # mean over the last host call's training steps
    accuracy: float  # of the averaged weights
    accuracy_raw: float


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    model_path: str
    curves_path: str
    labels_path: str
    classes: tuple[str, ...]
    phases: tuple[PhaseResult, ...]
    seconds: float

    @property
    def accuracy(self):
        """Of the exported model (averaged weights) on the evaluation images, as a share of 1."""
        return self.phases[-1].accuracy


class TrainingError(RuntimeError):
    """A run that cannot go on, with what to change."""


def check_run(recipe, training, evaluation, workdir, replicas, *, overwrite=False):
    """Raises ``ValueError`` for what cannot work, before anything slow; makes `workdir`."""
    recipes.check(recipe)
    batch = recipe.batch_size
    unit = replicas * (2 if max(recipe.mixup_first, recipe.mixup_last) > 0 else 1)
    if batch % unit:
        near = sorted({max(unit, batch // unit * unit), (batch // unit + 1) * unit})
        mixup = ", in pairs for mixup" if unit > replicas else ""
        raise ValueError(
            f"batch_size {batch} does not divide over {replicas} replicas{mixup}; try "
            f"{' or '.join(map(str, near))}"
        )
    if training.examples < 2 or len(training.classes) < 2:
        raise ValueError(
            f"{training.name} has {training.examples} images of {len(training.classes)} classes: "
            "two of each are the least to train on"
        )
    if training.classes != evaluation.classes:
        raise ValueError(f"{training.name} and {evaluation.name} do not have the same classes")
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, ".writable")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise ValueError(f"workdir {workdir!r} cannot be written to: {error.strerror}") from error
    taken = [name for name in _FILES if os.path.exists(os.path.join(workdir, name))]
    if taken and not overwrite:
        raise ValueError(
            f"workdir {workdir!r} holds a run already ({', '.join(taken)}): choose another one, or "
            "give --overwrite to replace it"
        )


def train(recipe, training, evaluation, workdir, strategy, *, overwrite=False, stream=None):
    """Trains from scratch and returns the :class:`Result`.

    `training` and `evaluation` are :class:`tpu_train.data.Source`; `stream` is where progress goes
    (standard error). Raises ``ValueError`` for what cannot work, before anything slow, and
    :class:`TrainingError` when the loss is no number any more.
    """
    workdir = os.fspath(workdir)
    replicas = strategy.num_replicas_in_sync
    check_run(recipe, training, evaluation, workdir, replicas, overwrite=overwrite)
    began = time.monotonic()
    is_chief = not getattr(strategy.cluster_resolver, "task_id", 0)  # of several workers
    output = (
        workdir
        if is_chief
        else os.path.join(workdir, f".worker{strategy.cluster_resolver.task_id}")
    )
    os.makedirs(output, exist_ok=True)
    for name in _FILES:
        _remove(os.path.join(output, name))

    keras.utils.set_random_seed(recipe.seed)
    all_phases = make_phases(recipe, training.examples)
    network = _network(recipe, len(training.classes), classifier_activation=None)
    with strategy.scope():
        net, averaged = (
            noise.training_clone(network, sync_batch_norm=recipe.sync_batch_norm) for _ in range(2)
        )
        state = _State.of(net, averaged, optimizer.OPTIMIZERS[recipe.optimizer])
    evaluate = make_evaluation(
        strategy,
        {"averaged": averaged, "raw": net},
        evaluation,
        image_size=recipe.image_size_eval,
        batch_size=recipe.batch_size,
    )

    results = []
    with contextlib.closing(Progress(output, stream)) as progress, _graph_rewriting(strategy):
        _write_recipe(os.path.join(output, "recipe.json"), recipe, all_phases, training)
        progress.say(
            f"{recipe.model}, {training.examples} training and {evaluation.examples} evaluation "
            f"images of {len(training.classes)} classes, {describe(strategy)}"
        )
        for phase in all_phases:
            results.append(
                _walk(recipe, phase, all_phases, training, strategy, net, state, evaluate, progress)
            )
            progress.say(_line(results[-1], len(all_phases)))
    result = Result(
        model_path=os.path.join(output, "model.keras"),
        curves_path=os.path.join(output, "curves.png"),
        labels_path=os.path.join(output, "labels.txt"),
        classes=training.classes,
        phases=tuple(results),
        seconds=time.monotonic() - began,
    )
    _export(recipe, averaged, result)
    plot_curves(os.path.join(output, "metrics.jsonl"), result.curves_path)
    return result


@contextlib.contextmanager
def _graph_rewriting(strategy):
    """Off on a CPU, where it takes longer (18 s a phase for V2-B0) than it gives back (nothing)."""
    before = tf.config.optimizer.get_experimental_options()
    if "CPU" in strategy.extended.worker_devices[0].upper():
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@dataclass(frozen=True)
class _State:
    """The variables that a step changes, all of them plain tf.Variables of the strategy."""

    rule: optimizer.Rule
    trainable: list
    decayed: list  # which of them have weight decay
    slots: list
    weights: list
    averages: list

    @classmethod
    def of(cls, net, averaged, rule):
        trainable = [_variable(v) for v in net.trainable_variables]
        return cls(
            rule=rule,
            trainable=trainable,
            decayed=[optimizer.decays(getattr(v, "path", v.name)) for v in net.trainable_variables],
            slots=optimizer.create_slots(rule, trainable),
            weights=[_variable(v) for v in net.weights],
            averages=[_variable(v) for v in averaged.weights],
        )


def _variable(weight):
    """The tf.Variable of a Keras weight: Keras 3 wraps it, Keras 2 does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def _network(recipe, classes, *, classifier_activation, image_size=None):
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[recipe.precision]
    if classifier_activation:  # what is exported computes in float32
        policy = "float32"
    keras.mixed_precision.set_global_policy(policy)
    try:
        network = create_model(
            recipe.model,
            classes=classes,
            input_shape=(image_size, image_size, 3),
            classifier_activation=classifier_activation,
            drop_path_rate=recipe.drop_path_rate,
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    if recipe.zero_head:
        head = network.layers[-1]
        head.set_weights([w * 0 for w in head.get_weights()])
    return network


def _walk(recipe, phase, all_phases, training, strategy, net, state, evaluate, progress):
    """One phase: its batches, its traced step, its evaluation."""
    began = time.monotonic()
    progress.begin(phase, len(all_phases), recipe.batch_size)
    noise.set_dropout(net, phase.dropout_rate)
    steps_per_epoch = training.examples / recipe.batch_size
    rate = lambda step: learning_rate(  # noqa: E731 - a name for two callers
        recipe, step, steps_per_epoch=steps_per_epoch, total_steps=all_phases[-1].end_step
    )
    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                training,
                recipe,
                phase,
                first_step=phase.first_step,
                end_step=phase.end_step,
                replicas=strategy.num_replicas_in_sync,
                host=context.input_pipeline_id,
                hosts=context.num_input_pipelines,
            )
        )
    )
    run_steps = _traced_steps(
        recipe, phase, len(training.classes), strategy, net, state, rate, batches
    )
    step = phase.first_step
    while step < phase.end_step:
        steps = min(recipe.steps_per_loop, phase.end_step - step)
        started = time.monotonic()
        loss, correct, norm = (
            run_steps(batches, tf.constant(step, tf.int64), tf.constant(steps, tf.int64)) / steps
        ).numpy()
        step += steps
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} after step {step - 1} (phase {phase.number}, "
                f"{phase.image_size} px): lower --learning_rate (now {recipe.learning_rate}), set "
                "--clip_norm=1, or lengthen --warmup_epochs"
            )
        record = {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "learning_rate": float(rate(tf.constant(step - 1))),
            "loss": float(loss),
            "accuracy": float(correct) / recipe.batch_size,
            "gradient_norm": float(norm),
            "images_per_second": steps * recipe.batch_size / (time.monotonic() - started),
        }
        progress.step(record, steps * recipe.batch_size)

    reached = evaluate()
    result = PhaseResult(
        number=phase.number,
        image_size=phase.image_size,
        steps=phase.end_step - phase.first_step,
        seconds=time.monotonic() - began,
        loss=record["loss"],
        accuracy=reached["averaged"],
        accuracy_raw=reached["raw"],
    )
    progress.end(
        {
            "step": step,
            "phase": phase.number,
            "image_size": phase.image_size,
            "evaluation_accuracy": result.accuracy,
            "evaluation_accuracy_raw": result.accuracy_raw,
            "seconds": result.seconds,
        }
    )
    return result


def _traced_steps(recipe, phase, classes, strategy, net, state, rate, batches):
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


def _line(r, phases):
    return (
        f"phase {r.number}/{phases}, {r.image_size} px: {r.steps} steps in {r.seconds:.0f} s, "
        f"held-out accuracy {r.accuracy:.2%} (raw weights {r.accuracy_raw:.2%})"
    )


def _write_recipe(path, recipe, all_phases, training):
    record = {
        "recipe": dataclasses.asdict(recipe),
        "phases": [dataclasses.asdict(p) for p in all_phases],
        "training_images": training.examples,
        "skipped_files": list(training.skipped),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    with open(path, "w") as file:
        json.dump(record, file, indent=1)


def _export(recipe, averaged, result):
    """The averaged weights in a model of stock layers: any Keras loads it."""
    exported = _network(
        recipe,
        len(result.classes),
        classifier_activation="softmax",
        image_size=recipe.image_size_eval,
    )
    exported.set_weights(averaged.get_weights())
    partial = result.model_path.replace(".keras", ".partial.keras")
    exported.save(partial)
    os.replace(partial, result.model_path)
    with open(result.labels_path, "w") as file:
        file.writelines(f"{name}\n" for name in result.classes)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
