import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.training import ema
from tpu_train.training.distribution import make_strategy

pytestmark = pytest.mark.every_stack


def tensorflow_1(series, decay):
    """TensorFlow 1's averages after each variable has had the values of its series."""
    with tf.Graph().as_default():
        variables = [
            tf.compat.v1.get_variable(f"v{i}", initializer=values[0], use_resource=True)
            for i, values in enumerate(series)
        ]
        fed = [tf.compat.v1.placeholder(tf.float32, v.shape) for v in variables]
        step = tf.compat.v1.placeholder(tf.float32, [])
        averages = tf.compat.v1.train.ExponentialMovingAverage(decay, num_updates=step)
        with tf.control_dependencies([v.assign(f) for v, f in zip(variables, fed)]):
            move = averages.apply(variables)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for n in range(len(series[0])):
                session.run(move, {step: n, **{f: values[n] for f, values in zip(fed, series)}})
            return session.run([averages.average(v) for v in variables])


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_the_ema_equals_tensorflow_1_with_its_ramp(decay):
    """0.9 is reached by the ramp at step 80, 0.9999 never in 100 steps."""
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    strategy = tf.distribute.get_strategy()
    variable, average = tf.Variable(values[0]), tf.Variable(values[0])
    for step, value in enumerate(values):
        variable.assign(value)
        ema.update(strategy, [average], [variable], decay, tf.constant(step, tf.int64))
    (expected,) = tensorflow_1([values], decay)
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_ema_of_batch_norm_equals_tensorflow_1_on_every_replica():
    images = np.random.default_rng(0).normal(2, 3, size=(50, 16, 4)).astype(np.float32)
    strategy = make_strategy("cpu:2")
    with strategy.scope():
        layer = keras.layers.BatchNormalization()
        layer.build((None, 4))
        weights = [w if isinstance(w, tf.Variable) else w.value for w in layer.weights]
        averages = [tf.Variable(w) for w in weights]

    def move(strategy, step):
        step = strategy.experimental_local_results(step)[0]
        ema.update(strategy, averages, weights, 0.8, step)

    @tf.function
    def run(step):
        strategy.run(lambda s: tf.distribute.get_replica_context().merge_call(move, (s,)), (step,))

    series = [[] for _ in weights]
    single = keras.layers.BatchNormalization()  # its statistics are assigned to both replicas
    for step, batch in enumerate(images):
        single(batch, training=True)
        for weight, value, values in zip(weights, single.get_weights(), series):
            weight.assign(value)
            values.append(value)
        run(tf.constant(step, tf.int64))
    assert sorted(len(np.unique(values)) > 1 for values in series) == [False, False, True, True]
    for average, expected in zip(averages, tensorflow_1(series, 0.8)):
        for replica in strategy.experimental_local_results(average):
            np.testing.assert_allclose(replica.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_counter_has_the_variables_value():
    """A Normalization layer of a user's network counts in whole numbers."""
    variable, average = tf.Variable(7, dtype=tf.int32), tf.Variable(3, dtype=tf.int32)
    strategy = tf.distribute.get_strategy()
    ema.update(strategy, [average], [variable], 0.9, tf.constant(5, tf.int64))
    assert int(average) == 7
