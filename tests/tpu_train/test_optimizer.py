import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.api import create_model
from tpu_train import optimizer
from tpu_train.optimizer import OPTIMIZERS, clip, create_slots, decays

RANDOM = np.random.default_rng(0)
START = RANDOM.normal(size=(5, 7)).astype(np.float32)
GRADIENTS = RANDOM.normal(size=(200, 5, 7)).astype(np.float32)


def ours(name, weight_decay=0.0, steps=200, learning_rate=0.05):
    strategy = tf.distribute.get_strategy()
    rule, variable = OPTIMIZERS[name], tf.Variable(START)
    slots = create_slots(rule, [variable])
    for step in range(steps):
        optimizer.apply(
            strategy, rule, [variable], [tf.constant(GRADIENTS[step])], slots, [True],
            tf.constant(learning_rate), tf.constant(step, tf.int64), weight_decay,
        )  # fmt: skip
    return variable.numpy()


def tensorflow_1(make):
    with tf.Graph().as_default():
        variable = tf.compat.v1.get_variable("v", initializer=START, use_resource=True)
        gradient = tf.compat.v1.placeholder(tf.float32, START.shape)
        train = make().apply_gradients([(gradient, variable)])
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for g in GRADIENTS:
                session.run(train, {gradient: g})
            return session.run(variable)


def test_rmsprop_is_tensorflow_1_s_after_200_steps():
    theirs = tensorflow_1(
        lambda: tf.compat.v1.train.RMSPropOptimizer(0.05, decay=0.9, momentum=0.9, epsilon=1e-3)
    )
    assert np.abs(ours("rmsprop") - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_sgd_is_tensorflow_1_s_momentum():
    theirs = tensorflow_1(lambda: tf.compat.v1.train.MomentumOptimizer(0.05, 0.9))
    np.testing.assert_allclose(ours("sgd"), theirs, rtol=1e-4, atol=1e-4)


def test_adamw_is_keras_s():
    keras_optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.01)
    variable = tf.Variable(START)
    keras_optimizer.build([variable])
    for g in GRADIENTS:
        keras_optimizer.apply_gradients([(tf.constant(g), variable)])
    np.testing.assert_allclose(ours("adamw", 0.01), variable.numpy(), rtol=1e-3, atol=1e-3)


def test_l2_is_the_gradient_of_half_the_square():
    variable, slot = tf.Variable([2.0]), tf.Variable([0.0])
    OPTIMIZERS["sgd"].update(variable, tf.constant([0.0]), [slot], 0.1, 0, 0.5)
    assert variable.numpy() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0)


def test_clipping_scales_the_whole_gradient():
    clipped, norm = clip([tf.constant([3.0]), tf.constant([4.0])], 1.0)
    assert float(norm) == pytest.approx(5)
    np.testing.assert_allclose([float(c[0]) for c in clipped], [0.6, 0.8], rtol=1e-6)
    same, _ = clip([tf.constant([3.0])], 0)
    assert float(same[0][0]) == 3.0
    below, _ = clip([tf.constant([0.3])], 1.0)
    assert float(below[0][0]) == pytest.approx(0.3)


def test_weight_decay_spares_biases_and_batch_norm(tiny):
    model = create_model(tiny)
    names = [getattr(v, "path", v.name) for v in model.trainable_variables]
    decayed = [n for n in names if decays(n)]
    assert len(decayed) == sum(len(v.shape) > 1 for v in model.trainable_variables)
    assert not [n for n in decayed if "bias" in n or "bn" in n]
