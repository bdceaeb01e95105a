import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.constructors import create_model
from tpu_train.recipes.schema import OPTIMIZERS
from tpu_train.training import optimizers
from tpu_train.training.distribution import make_strategy
from tpu_train.training.optimizers import ADDONS, RULES, clip, decays, make, with_l2

pytestmark = pytest.mark.every_stack

RANDOM = np.random.default_rng(0)
STEPS = 200
# A kernel, a vector and an offset that starts at 0, as in a network.
STARTS = [RANDOM.normal(size=(5, 7)), RANDOM.normal(size=7), np.zeros(7)]
STARTS = [s.astype(np.float32) for s in STARTS]
GRADIENTS = [RANDOM.normal(size=(STEPS, *s.shape)).astype(np.float32) for s in STARTS]
DECAYED = [True, True, False]


@pytest.fixture
def addons():
    """tensorflow-addons, if it can be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow_addons", exc_type=ImportError)


def gradients_of(step):
    return [tf.constant(g[step]) for g in GRADIENTS]


def new_variables():
    return [tf.Variable(s) for s in STARTS]


def ours(name, weight_decay=0.0, steps=STEPS, learning_rate=0.05, decayed=DECAYED):
    variables = new_variables()
    optimizer = make(name, variables, decayed, weight_decay_mode="decoupled")
    strategy = tf.distribute.get_strategy()

    @tf.function
    def apply(gradients, step):
        optimizer.apply(strategy, gradients, tf.constant(learning_rate), step, weight_decay)

    for step in range(steps):
        apply(gradients_of(step), tf.constant(step, tf.int64))
    return [v.numpy() for v in variables]


def tensorflow_1(make_optimizer, steps=STEPS):
    with tf.Graph().as_default():
        variables = [
            tf.compat.v1.get_variable(f"v{i}", initializer=s, use_resource=True)
            for i, s in enumerate(STARTS)
        ]
        fed = [tf.compat.v1.placeholder(tf.float32, s.shape) for s in STARTS]
        train = make_optimizer().apply_gradients(list(zip(fed, variables)))
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for step in range(steps):
                session.run(train, {f: g[step] for f, g in zip(fed, GRADIENTS)})
            return session.run(variables)


def by_keras(keras_optimizer, steps=STEPS):
    variables = new_variables()
    keras_optimizer.build(variables)
    for step in range(steps):
        keras_optimizer.apply_gradients(list(zip(gradients_of(step), variables)))
    return [v.numpy() for v in variables]


def by_numpy(rule, learning_rate=0.05, weight_decay=0.0):
    """A rule (x, g, state, t, learning rate, decay or None) -> x, in float64, t from 1."""
    ends = []
    for start, gradients, decay in zip(STARTS, GRADIENTS, DECAYED):
        x, state = start.astype(np.float64), {}
        for t, g in enumerate(gradients.astype(np.float64), 1):
            x = rule(x, g, state, t, learning_rate, weight_decay if decay else None)
        ends.append(x)
    return ends


def lion(x, g, state, t, learning_rate, decay):
    """arXiv 2302.06675, Algorithm 2."""
    m = state.get("m", 0.0)
    c = 0.9 * m + (1 - 0.9) * g
    state["m"] = 0.99 * m + (1 - 0.99) * g
    return x - learning_rate * (np.sign(c) + (decay or 0.0) * x)


def lamb(x, g, state, t, learning_rate, decay):
    """arXiv 1904.00962, Algorithm 2, phi the identity; decay None: no decay, no trust ratio."""
    state["m"] = 0.9 * state.get("m", 0.0) + (1 - 0.9) * g
    state["v"] = 0.999 * state.get("v", 0.0) + (1 - 0.999) * g**2
    r = (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-6)
    if decay is None:
        return x - learning_rate * r
    r = r + decay * x
    return x - learning_rate * np.linalg.norm(x) / np.linalg.norm(r) * r


def assert_close(values, expected, relative):
    """Largest difference over the largest weight."""
    for g, w in zip(values, expected):
        assert np.abs(g - w).max() <= relative * np.abs(w).max()


def test_every_optimizer_of_the_recipes_has_a_rule():
    assert {*RULES, *ADDONS} == set(OPTIMIZERS)


def test_rmsprop_equals_tensorflow_1_after_200_steps():
    expected = tensorflow_1(
        lambda: tf.compat.v1.train.RMSPropOptimizer(0.05, decay=0.9, momentum=0.9, epsilon=1e-3)
    )
    assert_close(ours("rmsprop"), expected, 1e-6)


def test_sgd_equals_tensorflow_1_momentum():
    expected = tensorflow_1(lambda: tf.compat.v1.train.MomentumOptimizer(0.05, 0.9))
    assert_close(ours("sgd"), expected, 1e-6)


def test_adamw_equals_keras():
    expected = by_keras(keras.optimizers.AdamW(0.05, weight_decay=0.01))
    assert_close(ours("adamw", 0.01, decayed=[True] * 3), expected, 1e-5)


def test_lion_equals_the_paper_and_keras():
    assert_close(ours("lion", 0.1), by_numpy(lion, weight_decay=0.1), 1e-5)
    expected = by_keras(keras.optimizers.Lion(0.05, weight_decay=0.1))
    assert_close(ours("lion", 0.1, decayed=[True] * 3), expected, 1e-5)


def test_lamb_equals_the_paper_with_decay_inside_the_trust_ratio():
    assert_close(ours("lamb", 0.1), by_numpy(lamb, weight_decay=0.1), 1e-5)


def test_lamb_equals_tensorflow_addons(addons):
    expected = by_keras_2(addons.optimizers.LAMB(0.05, weight_decay=0.1))
    assert_close(ours("lamb", 0.1, decayed=[True] * 3), expected, 1e-5)


@pytest.mark.parametrize("name", ADDONS)
def test_addon_optimizers_equal_direct_use_of_tensorflow_addons(name, addons):
    optimizers = addons.optimizers
    expected = {
        "tfa_lazyadam": lambda: optimizers.LazyAdam(0.05),
        "tfa_novograd": lambda: optimizers.NovoGrad(0.05),
        "tfa_yogi": lambda: optimizers.Yogi(0.05),
        "tfa_lookahead": lambda: optimizers.Lookahead(optimizers.RectifiedAdam(0.05)),
    }[name]
    assert_close(ours(name), by_keras_2(expected()), 1e-6)


def by_keras_2(legacy_optimizer):
    variables = new_variables()
    for step in range(STEPS):
        legacy_optimizer.apply_gradients(list(zip(gradients_of(step), variables)))
    return [v.numpy() for v in variables]


def test_addon_optimizers_have_decoupled_weight_decay(addons):
    decayed, plain = (ours("tfa_yogi", w, steps=1) for w in (0.5, 0.0))
    np.testing.assert_allclose(plain[0] - decayed[0], 0.05 * 0.5 * STARTS[0], atol=1e-3)
    np.testing.assert_array_equal(plain[2], decayed[2])


@pytest.mark.parametrize("name", RULES)
def test_decoupled_decay_applies_only_to_decayed_variables(name):
    """Of the weight before the step; a separate term in all but LAMB."""
    decayed, plain = (ours(name, w, steps=1) for w in (0.5, 0.0))
    if name != "lamb":
        np.testing.assert_allclose(plain[0] - decayed[0], 0.05 * 0.5 * STARTS[0], atol=1e-6)
    assert np.abs(plain[0] - decayed[0]).max() > 1e-3
    np.testing.assert_array_equal(plain[2], decayed[2])


@pytest.mark.parametrize("name", [*RULES, *ADDONS])
def test_the_learning_rate_changes_without_a_new_trace(name, request):
    if name in ADDONS:
        request.getfixturevalue("addons")
    strategy = tf.distribute.get_strategy()

    def moves(rates):
        variables = new_variables()
        optimizer = make(name, variables, DECAYED, weight_decay_mode="decoupled")
        apply = tf.function(
            lambda rate, step: optimizer.apply(strategy, gradients_of(0), rate, step, 0.0)
        )
        weights = [STARTS[0]]
        for step, rate in enumerate(rates):
            apply(tf.constant(rate), tf.constant(step, tf.int64))
            weights.append(variables[0].numpy())
        assert apply.experimental_get_tracing_count() == 1
        return [np.linalg.norm(b - a) for a, b in zip(weights, weights[1:])]

    assert moves([0.0])[0] == 0
    small, large = moves([0.1, 0.1, 0.1]), moves([0.1, 0.1, 0.3])
    assert small[:2] == large[:2]
    assert large[2] > 1.2 * small[2]  # less than three times because of momentum


def distributed(strategy, name, first, end, slots=None, values=None):
    """Steps [first, end) as in a traced training step; (values, slots) of every replica."""
    with strategy.scope():
        variables = [tf.Variable(v) for v in values or STARTS]
        optimizer = make(name, variables, DECAYED, weight_decay_mode="decoupled")
    for slot, value in zip(optimizer.slots, slots or []):
        slot.assign(value)
    replicas = strategy.num_replicas_in_sync

    def update(strategy, gradients, step):
        step = strategy.experimental_local_results(step)[0]
        rate = 0.05 / (1 + tf.cast(step, tf.float32))
        tf.cond(
            step >= 0, lambda: optimizer.apply(strategy, gradients, rate, step, 0.1), lambda: None
        )

    @tf.autograph.experimental.do_not_convert
    def replica_step(gradients, step):
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce("SUM", [g / replicas for g in gradients])
        context.merge_call(update, args=(gradients, step))

    @tf.function
    def run(gradients, step):
        strategy.run(replica_step, args=(gradients, step))

    for step in range(first, end):
        run(gradients_of(step), tf.constant(step, tf.int64))
    return [
        [[part.numpy() for part in strategy.experimental_local_results(v)] for v in list_]
        for list_ in (variables, optimizer.slots)
    ]


@pytest.mark.parametrize("name", [*RULES, *ADDONS])
def test_replicas_equal_one_device_and_resume_from_their_slots(name, request):
    if name in ADDONS:
        request.getfixturevalue("addons")
    two = make_strategy("cpu:2")
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    values, slots = distributed(two, name, 0, 9)
    for replicas in [*values, *slots]:
        assert len(replicas) == 2 or replicas[0].dtype == np.int64
        np.testing.assert_array_equal(replicas[0], replicas[-1])
    alone, _ = distributed(one, name, 0, 9)
    assert_close([v[0] for v in alone], [v[0] for v in values], 1e-6)

    half, half_slots = distributed(two, name, 0, 4)
    resumed = distributed(
        two, name, 4, 9, slots=[s[0] for s in half_slots], values=[v[0] for v in half]
    )
    for again, uninterrupted in zip(resumed, (values, slots)):
        for a, w in zip(again, uninterrupted):
            np.testing.assert_array_equal(a, w)


@pytest.mark.parametrize("name", RULES)
def test_a_step_compiles_with_xla(name):
    variables = new_variables()
    optimizer = make(name, variables, DECAYED, weight_decay_mode="decoupled")
    strategy = tf.distribute.get_strategy()

    @tf.function(jit_compile=True)
    def apply(gradients, step):
        optimizer.apply(strategy, gradients, tf.constant(0.05), step, 0.1)

    for step in range(3):
        apply(gradients_of(step), tf.constant(step, tf.int64))
    assert_close([v.numpy() for v in variables], ours(name, 0.1, steps=3), 1e-5)


def test_slots_are_in_the_order_of_the_variables():
    optimizer = make("rmsprop", new_variables(), DECAYED, weight_decay_mode="l2")
    assert [tuple(s.shape) for s in optimizer.slots] == [(5, 7)] * 2 + [(7,)] * 4
    assert [float(tf.reduce_mean(s)) for s in optimizer.slots] == [1.0, 0.0] * 3


def test_l2_is_the_gradient_of_half_the_square():
    variables = [tf.Variable([2.0, -3.0]), tf.Variable([5.0])]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variables[0] ** 3) + 0.5 * tf.nn.l2_loss(variables[0])
    expected = tape.gradient(loss, variables[0])
    values = with_l2(
        [3 * variables[0] ** 2, tf.constant([1.0])], variables, [True, False], weight_decay=0.5
    )
    np.testing.assert_allclose(values[0], expected)
    assert float(values[1][0]) == 1.0


def test_l2_and_decoupled_decay_together_are_an_error():
    optimizer = make("sgd", new_variables(), DECAYED, weight_decay_mode="l2")
    with pytest.raises(ValueError, match="would be applied twice"):
        optimizer.apply(tf.distribute.get_strategy(), gradients_of(0), 0.1, 0, 1e-5)


def test_clipping_scales_by_the_global_norm():
    clipped, norm = clip([tf.constant([3.0]), tf.constant([4.0])], 1.0)
    assert float(norm) == pytest.approx(5)
    np.testing.assert_allclose([float(c[0]) for c in clipped], [0.6, 0.8], rtol=1e-6)
    same, _ = clip([tf.constant([3.0])], 0)
    assert float(same[0][0]) == 3.0
    below, _ = clip([tf.constant([0.3])], 1.0)
    assert float(below[0][0]) == pytest.approx(0.3)


def test_weight_decay_excludes_biases_and_batch_norm(tiny):
    model = create_model(tiny)
    names = [getattr(v, "path", v.name) for v in model.trainable_variables]
    decayed = [n for n in names if decays(n)]
    assert len(decayed) == sum(len(v.shape) > 1 for v in model.trainable_variables)
    assert not [n for n in decayed if "bias" in n or "bn" in n]


def test_v1_weight_decay_includes_biases_but_not_batch_norm(tiny):
    model = create_model(tiny)
    names = [getattr(v, "path", v.name) for v in model.trainable_variables]
    spared = [n for n in names if not decays(n, biases=True)]
    assert len(spared) == 2 * sum("BatchNorm" in type(layer).__name__ for layer in model.layers)
    assert (
        sum("bias" in n for n in names) == sum("bias" in n and decays(n, True) for n in names) > 0
    )


def test_a_missing_addon_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    with pytest.raises(ValueError, match=r'pip install "keras_effnet\[addons\]"') as error:
        optimizers.check("tfa_yogi")
    assert f"this is {tf.__version__}" in str(error.value)
    with pytest.raises(ValueError, match="Did you mean 'lamb'"):
        optimizers.check("lam")
    for name in RULES:
        optimizers.check(name)
