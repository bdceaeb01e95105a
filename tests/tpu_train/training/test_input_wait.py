"""The time in which no step runs because its batch is not there yet."""

import os
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from tests.tpu_train.training.steps import PHASE, RECIPE, batches, network, step_spec
from tpu_train.training import step
from tpu_train.training.distribution import make_strategy

pytestmark = pytest.mark.every_stack

# Steps of about 40 ms, whose batches are in memory. Prints the fraction of the time without a step.
ONE_CORE = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import keras, tensorflow as tf
from tests.tpu_train.training.steps import CLASSES, SIZE, batches, start
x = inputs = keras.Input((SIZE, SIZE, 3))
x = keras.layers.UpSampling2D(8)(x)
for _ in range(2):
    x = keras.layers.Conv2D(64, 3, padding="same")(x)
x = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(x))
run = start(keras.Model(inputs, x), batches()).run
run(tf.constant(0, tf.int64), tf.constant(2, tf.int64))
began = time.monotonic()
*_, waited = run(tf.constant(2, tf.int64), tf.constant(10, tf.int64)).numpy()
print(waited / (time.monotonic() - began))
"""


@pytest.mark.parametrize("slow", ["batches", "steps"])
def test_the_time_without_a_batch_is_counted_and_no_other(slow):
    def pause(value):
        later = tf.numpy_function(lambda v: time.sleep(0.4) or v, [value], value.dtype)
        return tf.ensure_shape(later, value.shape)

    def rate(n):
        return pause(tf.constant(0.1)) if slow == "steps" else tf.constant(0.1)

    strategy = make_strategy("cpu")
    spec, _ = step_spec(strategy, network(norm=False, dropout=0), RECIPE, PHASE, rate)
    data = tf.data.Dataset.from_tensor_slices(batches())
    if slow == "batches":
        data = data.map(lambda batch: {**batch, "label": pause(batch["label"])})
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: data.repeat()))
    run_steps = step.trace_steps(spec, iterator)
    start = time.monotonic()
    *_, waited = run_steps(iterator, tf.constant(0, tf.int64), tf.constant(4, tf.int64)).numpy()
    others = time.monotonic() - start - waited
    assert (waited > 0.5) if slow == "batches" else (others > 1.5)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")
def test_with_one_core_a_step_is_not_counted_as_waiting():
    """TensorFlow's only thread read the clock after the step instead of before it."""
    ran = subprocess.run(
        [sys.executable, "-c", ONE_CORE], stdout=subprocess.PIPE, text=True, check=True
    )
    assert float(ran.stdout) < 0.5
