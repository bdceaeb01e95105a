"""S of the reward: how long a training step of a network takes, by one of three sources."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from keras_effnet.model_cost import cost
from keras_effnet.variant_lookup import find_variant
from tpu_train.input_pipeline.batches import batch_spec
from tpu_train.recipes.phases import Phase, make_phases
from tpu_train.recipes.schema import Recipe
from tpu_train.search.trial_record import TrialFailedError
from tpu_train.training import distributed_layers
from tpu_train.training.distribution import describe, distributed_dataset
from tpu_train.training.run_setup import build_training
from tpu_train.training.step import StepSpec, graph_rewriting, trace_steps

WARMUP_STEPS = 3
STEPS = 15  # whose median is taken


@dataclass(frozen=True)
class StepTimer:
    """A source of step times. `measure` takes a recipe, whose model is the network to measure."""

    source: str
    unit: str
    device: str
    measure: Callable[[Recipe], float]


def make_timer(
    step_time: str,
    strategy: tf.distribute.Strategy,
    *,
    classes: int,
    examples: int,
    cache: str,
) -> StepTimer:
    """The :class:`StepTimer` of a study's ``step_time``: "flops", "measured", or "tpu:v5e".

    A TPU may have a layout: "tpu:v5e:2x4". `cache` is a folder for compiled steps. Raises
    ``ValueError`` for a TPU that does not exist, or where the TPU compiler does not run.
    """
    if step_time == "flops":
        return StepTimer(
            source="multiply-adds of one image",
            unit="multiply-adds",
            device="none",
            measure=lambda recipe: float(
                cost(
                    find_variant(recipe.model),
                    image_size=recipe.image_size_eval,
                    classes=classes,
                ).macs
            ),
        )
    if step_time == "measured":
        return StepTimer(
            source=f"measured, median of {STEPS} steps",
            unit="seconds",
            device=describe_device(strategy),
            measure=lambda recipe: measure_step(recipe, strategy, classes, examples),
        )
    return _compiler_timer(step_time.partition(":")[2], classes, examples, cache)


def _compiler_timer(name, classes, examples, cache):
    from tpu_train.tpu_compile import compiled_step, lowering, topology  # here: they need libtpu

    if ":" not in name and name in topology.CHIPS:
        name = f"{name}:{topology.CHIPS[name].layouts.split(',')[0]}"
    target = topology.open_topology(name)

    def measure(recipe):
        training = lowering.build_training(recipe, target.cores, classes=classes, examples=examples)
        phase = training.phases[-1]
        lowered = lowering.lower_step(training, phase, phase.batch_size // target.cores)
        compiled = compiled_step.compile_step(lowered, target, cache)
        if not compiled.fits:
            raise TrialFailedError(
                f"a step with a batch of {phase.batch_size} images does not fit {name}: give a "
                "smaller --batch_size"
            )
        return compiled_step.roofline_seconds(compiled, target)

    return StepTimer(
        source="roofline of the compiled step",
        unit="seconds",
        device=f"TPU {target.name}, libtpu {target.compiler}",
        measure=measure,
    )


def measure_step(
    recipe: Recipe, strategy: tf.distribute.Strategy, classes: int, examples: int
) -> float:
    """Seconds of a training step of the recipe's last phase, without its input pipeline.

    The step is the trainer's, traced and run :data:`WARMUP_STEPS` times before :data:`STEPS` steps
    are timed one by one; the result is their median.
    """
    phases = make_phases(recipe, examples)
    phase = phases[-1]
    model, _, state = build_training(recipe, phases, classes, strategy)
    distributed_layers.set_phase(model, recipe, phase)
    spec = StepSpec(
        recipe=recipe,
        phase=phase,
        classes=classes,
        strategy=strategy,
        model=model,
        state=state,
        learning_rate=lambda step: tf.constant(0.0),
    )
    batches = _constant_batches(phase, strategy)
    seconds = []
    with graph_rewriting(strategy):
        run_steps = trace_steps(spec, batches)
        for i in range(WARMUP_STEPS + STEPS):
            start = time.perf_counter()
            run_steps(batches, tf.constant(i, tf.int64), tf.constant(1, tf.int64)).numpy()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARMUP_STEPS:])


def describe_device(strategy: tf.distribute.Strategy) -> str:
    """The replicas of a strategy and the model name of their device, as far as it is known."""
    gpus = tf.config.list_physical_devices("GPU")
    if "GPU" in strategy.extended.worker_devices[0].upper() and gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
    else:
        name = _processor() if "CPU" in strategy.extended.worker_devices[0].upper() else ""
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count()
    threads = f", {threads} threads" if "CPU" in strategy.extended.worker_devices[0].upper() else ""
    return f"{describe(strategy)}{f', {name}' if name else ''}{threads}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].partition(":")[2].strip() if lines else ""


def _constant_batches(phase: Phase, strategy):
    """An iterator that repeats one batch, with one image of noise for every label 0."""
    local = dataclasses.replace(phase, mixup=0.0, cutmix=0.0)

    def dataset(context):
        images = phase.batch_size // strategy.num_replicas_in_sync
        spec = batch_spec(local, images)["image"]
        noise = tf.random.stateless_uniform(spec.shape, [0, 0], 0, 256, tf.int32)
        batch = {"image": tf.cast(noise, tf.uint8), "label": tf.zeros([images], tf.int32)}
        return tf.data.Dataset.from_tensors(batch).repeat()

    return iter(distributed_dataset(strategy, dataset))
