import numpy as np
import tensorflow as tf

from tpu_train import ema


def test_the_average_is_tensorflow_1_s_with_its_ramp():
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    strategy = tf.distribute.get_strategy()
    variable, average = tf.Variable(values[0]), tf.Variable(values[0])
    for step, value in enumerate(values):
        variable.assign(value)
        ema.update(strategy, [average], [variable], 0.9, tf.constant(step, tf.int64))

    with tf.Graph().as_default():
        theirs = tf.compat.v1.get_variable("v", initializer=values[0], use_resource=True)
        fed = tf.compat.v1.placeholder(tf.float32, 3)
        step = tf.compat.v1.placeholder(tf.float32, [])
        averages = tf.train.ExponentialMovingAverage(0.9, num_updates=step)
        assign = theirs.assign(fed)
        with tf.control_dependencies([assign]):
            move = averages.apply([theirs])
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for n, value in enumerate(values):
                session.run(move, {fed: value, step: n})
            expected = session.run(averages.average(theirs))
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-6)
