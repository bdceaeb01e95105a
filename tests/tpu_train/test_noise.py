import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.api import create_model
from tpu_train import noise
from tpu_train.noise import SeededDropout, set_dropout, training_clone

SEED = tf.constant([1, 2], tf.int32)


def masks(layer, shape, replica, replicas, seed=SEED):
    with noise.draw(seed, tf.constant(replica), replicas):
        return layer(tf.ones(shape), training=True).numpy()


def test_replicas_draw_their_rows_of_one_global_mask():
    layer = SeededDropout(0.5, name="drop")
    whole = masks(layer, (8, 6), 0, 1)
    halves = [masks(layer, (4, 6), r, 2) for r in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    assert not np.array_equal(*halves)


def test_the_mask_is_a_function_of_seed_and_layer():
    layer, other = SeededDropout(0.5, name="a"), SeededDropout(0.5, name="b")
    first = masks(layer, (8, 64), 0, 1)
    np.testing.assert_array_equal(first, masks(layer, (8, 64), 0, 1))
    assert not np.array_equal(first, masks(other, (8, 64), 0, 1))
    assert not np.array_equal(first, masks(layer, (8, 64), 0, 1, tf.constant([1, 3], tf.int32)))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    layer = SeededDropout(0.25, noise_shape=(None, 1, 1, 1), name="drop")
    out = masks(layer, (4000, 2, 2, 3), 0, 1)
    per_image = out.reshape(4000, -1)
    assert (per_image == per_image[:, :1]).all()
    assert set(np.unique(out)) <= {0.0, np.float32(1 / 0.75)}
    assert out.mean() == pytest.approx(1, abs=0.03)


def test_outside_of_training_nothing_happens():
    layer = SeededDropout(0.5)
    x = tf.ones((2, 3))
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_the_clone_answers_as_the_model_and_shares_nothing(tiny):
    model = create_model(tiny, classes=3)
    clone = training_clone(model, sync_batch_norm=True)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    before = model(x, training=False).numpy()
    np.testing.assert_allclose(clone(x, training=False), before, atol=1e-6)
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]
    clone.set_weights([w + 1 for w in clone.get_weights()])
    np.testing.assert_array_equal(model(x, training=False), before)
    assert not [layer for layer in clone.layers if type(layer) is keras.layers.Dropout]
    norms = [n for n in clone.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert norms
    assert all(n.synchronized for n in norms)


def test_a_new_rate_counts_in_the_next_trace_at_the_same_size(tiny):
    model = training_clone(create_model(tiny, classes=3, dropout_rate=0.0), sync_batch_norm=False)
    top = model.get_layer("top_dropout")
    drop = model.get_layer("block2b_drop")
    rate = drop.rate
    zeros = []
    for new in (0.0, 0.9):
        set_dropout(model, new)
        step = tf.function(lambda x: top(x, training=True))
        with noise.draw(SEED, tf.constant(0), 1):
            zeros.append(float(tf.reduce_mean(tf.cast(step(tf.ones((4, 100))) == 0, tf.float32))))
    assert zeros[0] == 0
    assert zeros[1] > 0.7
    assert drop.rate == rate > 0  # stochastic depth is not the classifier's dropout
