import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.constructors import create_model
from tpu_train.training import distributed_layers
from tpu_train.training.distributed_layers import (
    GroupedBatchNorm,
    SeededDropout,
    moving_statistics,
    set_dropout,
    set_frozen,
    training_clone,
)
from tpu_train.training.distribution import make_strategy

pytestmark = pytest.mark.every_stack

SEED = tf.constant([1, 2], tf.int32)
KERAS_2 = keras.__version__.startswith("2.")


# --- dropout -----------------------------------------------------------------------------------


def dropped(layer, images, row, rows, seed=SEED):
    """Ones of shape `images` after the layer, from row `row` on of a global batch of `rows`."""
    with distributed_layers.draw(seed, tf.constant(row), rows, 1):
        return layer(tf.ones(images), training=True).numpy()


def test_replicas_and_accumulation_steps_share_one_global_mask():
    """Whether the batch is divided over replicas or over accumulation steps."""
    layer = SeededDropout(0.5, name="drop")
    full = dropped(layer, (8, 6), 0, 8)
    for size in (4, 2):
        slices = [dropped(layer, (size, 6), row, 8) for row in range(0, 8, size)]
        np.testing.assert_array_equal(full, np.concatenate(slices))
        assert not np.array_equal(*slices[:2])


def test_the_mask_is_a_function_of_seed_and_layer():
    layer, other = SeededDropout(0.5, name="a"), SeededDropout(0.5, name="b")
    first = dropped(layer, (8, 64), 0, 8)
    np.testing.assert_array_equal(first, dropped(layer, (8, 64), 0, 8))
    assert not np.array_equal(first, dropped(other, (8, 64), 0, 8))
    assert not np.array_equal(first, dropped(layer, (8, 64), 0, 8, tf.constant([1, 3], tf.int32)))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    layer = SeededDropout(0.25, noise_shape=(None, 1, 1, 1), name="drop")
    out = dropped(layer, (4000, 2, 2, 3), 0, 4000)
    per_image = out.reshape(4000, -1)
    assert (per_image == per_image[:, :1]).all()
    assert set(np.unique(out)) <= {0.0, np.float32(1 / 0.75)}
    assert out.mean() == pytest.approx(1, abs=0.03)


def test_half_precision_dropout_keeps_dtype_and_mask():
    layer, half = SeededDropout(0.5, name="drop"), SeededDropout(0.5, name="drop", dtype="float16")
    with distributed_layers.draw(SEED, tf.constant(0), 8, 1):
        out = half(tf.ones((8, 6), tf.float16), training=True)
    assert out.dtype == tf.float16
    np.testing.assert_array_equal(out.numpy() > 0, dropped(layer, (8, 6), 0, 8) > 0)


def test_the_masks_of_unnamed_dropouts_are_those_of_any_process():
    """Keras counts their names over all networks of a process."""

    def network():
        x = inputs = keras.Input((8, 8, 64))
        for size in ("small", "large"):
            x = keras.layers.Dropout(0.5)(x)
            x = keras.layers.MaxPooling2D(name=f"{size}_pool")(x)
        return keras.Model(inputs, x)

    networks = [network() for _ in range(12)]  # "dropout_9" is before "dropout_10"
    assert len({layer.name for n in networks for layer in n.layers if "drop" in layer.name}) == 24
    results = [dropped(training_clone(n), (8, 8, 8, 64), 0, 8) for n in networks]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_dropout_is_the_identity_outside_training():
    layer = SeededDropout(0.5)
    x = tf.ones((2, 3))
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_a_new_dropout_rate_applies_to_the_next_trace(tiny):
    model = training_clone(create_model(tiny, classes=3, dropout_rate=0.0))
    top, drop = model.get_layer("top_dropout"), model.get_layer("block2b_drop")
    full = drop.rate
    assert full > 0
    zeros = []
    for new in (0.0, 0.9):
        set_dropout(model, new, drop_path_factor=0.5)
        step = tf.function(lambda x: top(x, training=True))
        with distributed_layers.draw(SEED, tf.constant(0), 4, 1):
            zeros.append(float(tf.reduce_mean(tf.cast(step(tf.ones((4, 100))) == 0, tf.float32))))
    assert zeros[0] == 0
    assert zeros[1] > 0.7
    assert drop.rate == full / 2  # half of the initial rate, not of the last one


# --- batch norm --------------------------------------------------------------------------------


def norm_of(group_size=0, layer=GroupedBatchNorm, dtype=None, inputs=(None, 5, 5, 3), **config):
    """A batch norm whose variables have distinct values, so that no mistake cancels."""
    norm = layer(epsilon=1e-3, dtype=dtype, name="bn", **config)
    norm.build(inputs)
    norm.set_weights([np.float32(v) for v in ([2, 1, 3], [1, 0, -1], [4, 5, 6], [1, 2, 3])])
    if layer is GroupedBatchNorm:
        norm.group_size = group_size
    return norm


def keras_norm():
    # Keras 2's fused moving variance uses the unbiased estimate, Keras 3's does not.
    return norm_of(layer=keras.layers.BatchNormalization, **({"fused": False} if KERAS_2 else {}))


def pixels(images=8):
    random = np.random.default_rng(0)
    return tf.constant(random.normal(3, 2, (images, 5, 5, 3)).astype(np.float32))


def loss_weights(images=8):
    """Weights of the outputs in the loss, so that no gradient vanishes."""
    return tf.constant(np.random.default_rng(1).normal(0, 1, (images, 5, 5, 3)).astype(np.float32))


def values(norm):
    return [v if isinstance(v, tf.Variable) else v.value for v in (norm.gamma, norm.beta)]


def forward_and_back(norm, x, weights, replicas=1):
    """(outputs, gradients of x, gamma and beta, statistics) of a weighted sum of the outputs."""
    with (
        distributed_layers.draw(SEED, tf.constant(0), 8, replicas) as recorded,
        tf.GradientTape() as tape,
    ):
        tape.watch(x)
        outputs = norm(x, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    statistics = [s for _, mean, variance in recorded for s in (mean, variance)]
    return outputs, tape.gradient(loss, [x, *values(norm)]), statistics


def moving(norm, statistics):
    """The moving statistics after the update of `step.make_step`."""
    return [
        variable.numpy() * momentum + statistic.numpy() * (1 - momentum)
        for (variable, momentum), statistic in zip(moving_statistics(norm, 0), statistics)
    ]


def assert_close(values, expected):
    for a, b in zip(values, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)  # sums of 200 float32


@pytest.mark.parametrize("path", ["fused", "arithmetic"])
def test_batch_norm_over_the_full_batch_equals_keras(path, monkeypatch):
    """Outputs, gradients and moving statistics; by TensorFlow's kernel and by arithmetic."""
    x, calls = pixels(), []
    kernel = tf.compat.v1.nn.fused_batch_norm

    def counted(*args, **kwargs):
        calls.append(args)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", counted)
    norm = norm_of(inputs=(None, 25, 3) if path == "arithmetic" else (None, 5, 5, 3))
    if path == "arithmetic":  # the kernel takes four dimensions
        outputs, gradients, statistics = forward_and_back(
            norm, tf.reshape(x, (8, 25, 3)), tf.reshape(loss_weights(), (8, 25, 3))
        )
        outputs = tf.reshape(outputs, x.shape)
        gradients[0] = tf.reshape(gradients[0], x.shape)
    else:
        outputs, gradients, statistics = forward_and_back(norm, x, loss_weights())
    assert len(calls) == (path == "fused")
    reference = keras_norm()
    expected, expected_gradients, _ = forward_and_back(reference, x, loss_weights())
    assert_close([outputs, *gradients], [expected, *expected_gradients])
    assert_close(moving(norm, statistics), [reference.moving_mean, reference.moving_variance])
    np.testing.assert_array_equal(norm.moving_mean, [4, 5, 6])  # the training step updates them


@pytest.mark.parametrize("images", [1, 2, 4])
def test_batch_norm_over_small_groups_equals_keras_on_each(images):
    x, weights = pixels(), loss_weights()
    norm = norm_of(images)
    outputs, gradients, statistics = forward_and_back(norm, x, weights)
    one_by_one = [
        forward_and_back(keras_norm(), x[i : i + images], weights[i : i + images])
        for i in range(0, 8, images)
    ]
    np.testing.assert_allclose(outputs, np.concatenate([o for o, _, _ in one_by_one]), atol=2e-5)
    by_group = [g for _, g, _ in one_by_one]
    assert_close(
        gradients,
        [np.concatenate([g[0] for g in by_group]), *(sum(g[i] for g in by_group) for i in (1, 2))],
    )
    groups = x.numpy().reshape(-1, images * 25, 3)  # the mean over the groups
    assert_close(statistics, [groups.mean((0, 1)), groups.var(1).mean(0)])


@pytest.mark.parametrize(("images", "spans"), [(0, True), (8, True), (4, False), (2, False)])
def test_batch_norm_groups_do_not_depend_on_the_replicas(images, spans, monkeypatch):
    """0 and 8 span both replicas, with an all-reduce in them; 4 and 2 stay within one."""
    strategy = make_strategy("cpu:2")
    x, weights, calls = pixels(), loss_weights(), []
    mean_over_group = distributed_layers._mean_over_group
    monkeypatch.setattr(
        distributed_layers, "_mean_over_group", lambda *a: calls.append(a) or mean_over_group(*a)
    )
    with strategy.scope():
        norm = norm_of(images)
    local = [
        strategy.experimental_distribute_values_from_function(
            lambda c, v=v: tf.split(v, 2)[c.replica_id_in_sync_group]
        )
        for v in (x, weights)
    ]

    @tf.function
    def step(x, weights):
        return strategy.run(forward_and_back, (norm, x, weights, 2))

    outputs, (of_x, *of_variables), statistics = step(*local)
    assert bool(calls) == spans
    joined = [np.concatenate(strategy.experimental_local_results(v)) for v in (outputs, of_x)]
    summed = [sum(strategy.experimental_local_results(v)) for v in of_variables]
    means = [sum(strategy.experimental_local_results(v)) / 2 for v in statistics]

    expected = forward_and_back(norm_of(images), x, weights)
    assert_close([*joined, *summed, *means], [expected[0], *expected[1], *expected[2]])


def test_four_replicas_in_groups_of_two_average_with_their_neighbor(monkeypatch):
    """More replicas than the tests have devices, so the all-reduce is computed by hand."""
    moments = [tf.constant([[float(r)], [10.0 * r]]) for r in range(4)]
    inputs = []

    class Context:
        def __init__(self, replica, total):
            self.replica_id_in_sync_group, self.total = replica, total

        def all_reduce(self, kind, places):
            assert kind == "SUM"
            inputs.append(places)
            return self.total

    def means(total):
        out = []
        for replica in range(4):
            context = Context(replica, total)
            monkeypatch.setattr(tf.distribute, "get_replica_context", lambda c=context: c)
            out.append(
                [float(m[0]) for m in distributed_layers._mean_over_group(moments[replica], 2, 4)]
            )
        return out

    means(tf.zeros([2, 2, 1]))
    assert means(tf.add_n(inputs[:4])) == [[0.5, 5.0]] * 2 + [[2.5, 25.0]] * 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("images", [0, 2])
def test_half_precision_batch_norm_has_float32_statistics(dtype, images):
    """With images whose squares overflow float16."""
    policy = "mixed_" + dtype
    x = tf.cast(100 * pixels(), dtype)
    with distributed_layers.draw(SEED, tf.constant(0), 8, 1) as recorded:
        outputs = norm_of(images, dtype=policy)(x, training=True)
    assert outputs.dtype == dtype
    ((_, mean, variance),) = recorded
    assert mean.dtype == variance.dtype == tf.float32
    with distributed_layers.draw(SEED, tf.constant(0), 8, 1) as exact:
        expected = norm_of(images)(tf.cast(x, tf.float32), training=True)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.04)
    assert_close([mean, variance / 1e4], [exact[0][1], exact[0][2] / 1e4])


def test_a_frozen_batch_norm_uses_its_moving_statistics():
    norm = norm_of()
    norm.trainable = False
    x = pixels()
    with distributed_layers.draw(SEED, tf.constant(0), 8, 1) as recorded:
        outputs = norm(x, training=True)
    assert not recorded
    np.testing.assert_array_equal(outputs, norm(x, training=False))


def test_batch_norm_without_scale_and_offset_equals_keras():
    x = pixels()
    outputs = []
    for layer in (GroupedBatchNorm, keras.layers.BatchNormalization):
        norm = layer(scale=False, center=False)
        with distributed_layers.draw(SEED, tf.constant(0), 8, 1):
            outputs.append(norm(x, training=True))
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_the_recipes_momentum_overrides_the_layers():
    norm = norm_of(momentum=0.7)
    assert [momentum for _, momentum in moving_statistics(norm, 0)] == [0.7, 0.7]
    assert [momentum for _, momentum in moving_statistics(norm, 0.9)] == [0.9, 0.9]


# --- the clone ---------------------------------------------------------------------------------


def test_a_clone_predicts_as_the_model_and_shares_no_variables(tiny):
    model = create_model(tiny, classes=3)
    clone = training_clone(model, batch_norm_group_size=4)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    before = model(x, training=False).numpy()
    np.testing.assert_allclose(clone(x, training=False), before, atol=1e-6)
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]
    clone.set_weights([w + 1 for w in clone.get_weights()])
    np.testing.assert_array_equal(model(x, training=False), before)
    assert not [layer for layer in clone.layers if type(layer) is keras.layers.Dropout]
    norms = [n for n in clone.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert norms
    assert {(type(n), n.group_size) for n in norms} == {(GroupedBatchNorm, 4)}


def test_only_frozen_batch_norms_use_their_moving_statistics(tiny):
    clone = training_clone(create_model(tiny, classes=3))
    for freeze, frozen in (("block1", {"stem_bn", "block1a_project_bn"}), ("none", set())):
        set_frozen(clone, freeze)
        norms = [n for n in clone.layers if isinstance(n, GroupedBatchNorm)]
        assert {n.name for n in norms if n.frozen} == frozen
    assert len(norms) > 2
