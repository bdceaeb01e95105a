import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.targets import soft_targets
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.table import RECIPES
from tpu_train.training import distributed_layers, step
from tpu_train.training.distribution import make_strategy

CLASSES = 3
BATCH = 8
SIZE = 6
RECIPE = dataclasses.replace(
    RECIPES["digits"],
    name="step",
    batch_size=BATCH,
    optimizer="sgd",
    clip_norm=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    ema_decay=0.9,
)
PHASE = Phase(
    number=1,
    first_step=0,
    end_step=100,
    first_example=0,
    batch_size=BATCH,
    accumulation=1,
    image_size=SIZE,
    magnitude=0.0,
    mixup=0.0,
    cutmix=0.0,
    dropout_rate=0.5,
    drop_path_rate=0.5,
)


def network(norm=True, dropout=0.5, dtype="float32"):
    """Every kind of layer that a step minds, in milliseconds; the same weights every time."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-1.0, dtype=dtype)(x)
    x = keras.layers.Conv2D(4, 3, use_bias=not norm, name="conv", dtype=dtype)(x)
    if norm:
        x = keras.layers.BatchNormalization(momentum=0.8, name="bn", dtype=dtype)(x)
    x = keras.layers.Activation("swish", dtype=dtype)(x)
    if dropout:
        x = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, 1), name="path", dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="top", dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head", dtype=dtype)(x))


def batches(steps=3, mixed=False, seed=0):
    """Global batches, one after the other, as `training_batches` gives them."""
    random = np.random.default_rng(seed)
    data = {
        "image": random.integers(0, 256, (steps, BATCH, SIZE, SIZE, 3)).astype(np.uint8),
        "label": random.integers(0, CLASSES, (steps, BATCH)).astype(np.int32),
    }
    if mixed:
        pairs = random.random((steps, BATCH // 2, 1)) < 0.5
        is_mixup = np.repeat(pairs, 2, 2).reshape(steps, BATCH)
        data["mix"] = np.where(is_mixup, random.uniform(0.5, 1, is_mixup.shape), 1).astype("f4")
        boxes = random.integers(0, SIZE // 2 + 1, (steps, BATCH, 4))
        data["box"] = np.where(is_mixup[..., None], 0, boxes).astype(np.int32)
    return data


@dataclass
class Ran:
    """What a few steps leave."""

    net: Any
    averaged: Any
    state: Any
    strategy: Any
    run: Any  # (steps) -> float32 [3] sums
    at: int = 0

    def go(self, steps=1):
        """Runs so many steps more: [loss, correct, gradient norm], summed."""
        first, self.at = self.at, self.at + steps
        return self.run(tf.constant(first, tf.int64), tf.constant(steps, tf.int64)).numpy()

    def weights(self):
        return [w.copy() for w in self.net.get_weights()]

    def named(self, name):
        return self.net.get_layer(name).get_weights()


def start(
    model,
    data,
    recipe=RECIPE,
    phase=PHASE,
    *,
    devices="cpu",
    rate=0.1,
    class_weights=None,
):
    strategy = make_strategy(devices)
    with strategy.scope():
        net = distributed_layers.training_clone(
            model, batch_norm_group_size=recipe.batch_norm_group_size, freeze=recipe.freeze
        )
        averaged = distributed_layers.training_clone(model)
        state = step.State.of(net, averaged, recipe)
    replicas = strategy.num_replicas_in_sync
    own = phase.batch_size // replicas
    part = own // phase.accumulation
    local = {  # a part has its images of all replicas beside each other: data._place
        k: v.reshape(-1, phase.accumulation, replicas, part, *v.shape[2:])
        .swapaxes(1, 2)
        .reshape(-1, own, *v.shape[2:])
        for k, v in data.items()
    }
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda _: tf.data.Dataset.from_tensor_slices(local).repeat()
        )
    )
    run_steps = step.traced_steps(
        recipe,
        phase,
        CLASSES,
        strategy,
        net,
        state,
        lambda n: tf.constant(rate) if not callable(rate) else rate(n),
        iterator,
        class_weights,
    )
    return Ran(net, averaged, state, strategy, lambda first, n: run_steps(iterator, first, n))


def gradients(model, images, labels, weight=1.0):
    """Those of the mean cross entropy, by Keras alone, in the order of its variables."""
    with tf.GradientTape() as tape:
        logits = model(tf.cast(images, tf.float32), training=False)
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        loss = weight * tf.reduce_mean(losses)
    found = tape.gradient(loss, [_variable(v) for v in model.trainable_variables])
    return [g.numpy() for g in found]


def _variable(v):
    return v if isinstance(v, tf.Variable) else v.value


def norm_of(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def locals_of(variable, strategy):
    return [v.numpy() for v in strategy.experimental_local_results(variable)]


# --- losses ------------------------------------------------------------------------------------

LABELS = np.array([2, 0, 1, 1])
LOGITS = np.random.default_rng(0).normal(0, 3, (4, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_kerass(smoothing):
    hot = tf.one_hot(LABELS, CLASSES)
    for kind, theirs, times in (
        ("softmax", keras.losses.categorical_crossentropy, 1),
        ("sigmoid", keras.losses.binary_crossentropy, CLASSES),  # Keras's is the classes' mean
    ):
        soft = soft_targets(
            tf.constant(LABELS, tf.int32), CLASSES, smoothing=smoothing, loss=kind
        )
        own = step._losses(kind, soft, tf.constant(LOGITS), None)
        expected = theirs(hot, tf.constant(LOGITS), from_logits=True, label_smoothing=smoothing)
        np.testing.assert_allclose(own, times * expected, rtol=1e-5)


def test_a_class_weight_multiplies_the_classs_part():
    weights = np.array([0.5, 2.0, 3.0], np.float32)
    hot, logits = tf.one_hot(LABELS, CLASSES), tf.constant(LOGITS)
    plain = step._losses("softmax", hot, logits, None)
    np.testing.assert_allclose(
        step._losses("softmax", hot, logits, weights), weights[LABELS] * plain, rtol=1e-5
    )
    soft = tf.constant([[0.25, 0.75, 0]] * 4)
    expected = sum(
        weights[c] * soft[0, c] * step._losses("softmax", tf.one_hot([c] * 4, 3), logits, None)
        for c in range(2)
    )
    np.testing.assert_allclose(step._losses("softmax", soft, logits, weights), expected, rtol=1e-5)
    by_class = tf.nn.sigmoid_cross_entropy_with_logits(hot, logits)
    np.testing.assert_allclose(
        step._losses("sigmoid", hot, logits, weights), by_class.numpy() @ weights, rtol=1e-5
    )
    for kind in ("softmax", "sigmoid"):
        np.testing.assert_allclose(
            step._losses(kind, soft, logits, np.ones(3, np.float32)),
            step._losses(kind, soft, logits, None),
            rtol=1e-5,
        )


def test_an_answer_is_correct_if_it_is_one_of_the_labels():
    logits = tf.one_hot([2, 0, 1], CLASSES)
    assert step._correct({"label": tf.constant([2, 1, 1])}, logits) == 2
    assert step._correct({"label": tf.constant([[0, 2], [1, -1], [1, 0]])}, logits) == 2
    soft = tf.constant([[0.4, 0, 0.6], [0.4, 0.6, 0], [0, 1.0, 0]])
    assert step._correct({"target": soft}, logits) == 2


# --- one step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_a_step_is_the_gradient_of_the_global_batchs_mean_loss(devices):
    model, data = network(norm=False, dropout=0), batches(1)
    ran = start(model, data, devices=devices)
    images, labels = data["image"][0], data["label"][0]
    found = gradients(model, images, labels)
    before = [v.numpy() for v in map(_variable, model.trainable_variables)]
    loss, correct, norm = ran.go()
    after = [v.numpy() for v in map(_variable, ran.net.trainable_variables)]
    for a, b, g in zip(after, before, found):
        np.testing.assert_allclose(a, b - 0.1 * g, rtol=1e-5, atol=1e-6)
    logits = model(images.astype("f4"), training=False).numpy()
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert loss == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert correct == (logits.argmax(1) == labels).sum()
    assert norm == pytest.approx(norm_of(found), rel=1e-5)


def test_batch_norms_statistics_move_as_kerass_and_with_the_recipes_momentum():
    model, data = network(dropout=0), batches(1)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin(data["image"][0].astype("f4"), training=True)
    mean, variance = twin.get_layer("bn").get_weights()[2:]
    count = BATCH * (SIZE - 2) ** 2
    if keras.__version__.startswith("2."):  # whose kernel gives the unbiased estimate
        variance = 0.8 + (variance - 0.8) * (count - 1) / count
    for devices in ("cpu", "cpu:2"):
        ran = start(model, data, devices=devices)
        ran.go()
        for own, theirs in zip(ran.named("bn")[2:], (mean, variance)):
            np.testing.assert_allclose(own, theirs, rtol=1e-5, atol=1e-6)
    faster = start(model, data, dataclasses.replace(RECIPE, batch_norm_momentum=0.5))
    faster.go()
    np.testing.assert_allclose(faster.named("bn")[2], mean / 0.2 * 0.5, rtol=1e-5)


def test_averages_are_of_all_weights_with_the_official_ramp():
    ran = start(network(), batches())
    expected = ran.averaged.get_weights()
    for n in range(3):
        ran.go()
        decay = min(RECIPE.ema_decay, (1 + n) / (10 + n))
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, ran.weights())]
    for a, b in zip(ran.averaged.get_weights(), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    start_mean = network().get_layer("bn").get_weights()[2]
    assert not np.allclose(ran.averaged.get_layer("bn").get_weights()[2], start_mean)


def test_the_gradient_is_clipped_after_the_sum_over_replicas():
    """Clipped before it, each replica's half would get the same length: another direction."""
    model, data = network(norm=False, dropout=0), batches(1)
    data["image"][0, :4] //= 8  # so that the halves' gradients differ in length, too
    halves = [
        gradients(model, data["image"][0, i : i + 4], data["label"][0, i : i + 4], 0.5)
        for i in (0, 4)
    ]
    whole = [a + b for a, b in zip(*halves)]
    most = 0.5 * min(map(norm_of, (*halves, whole)))  # so that everything is clipped
    after = [g * most / norm_of(whole) for g in whole]
    before = [
        sum(g * most / 2 / norm_of(half) for g, half in zip(pair, halves)) for pair in zip(*halves)
    ]
    recipe = dataclasses.replace(RECIPE, clip_norm=float(most))
    ran = start(model, data, recipe, devices="cpu:2")
    old = [v.numpy() for v in map(_variable, model.trainable_variables)]
    assert ran.go()[2] == pytest.approx(norm_of(whole), rel=1e-5)  # told as it was
    moves = [
        (a - v.numpy()) / 0.1 for a, v in zip(old, map(_variable, ran.net.trainable_variables))
    ]
    assert norm_of([m - a for m, a in zip(moves, after)]) < 1e-4 * most
    assert norm_of([m - b for m, b in zip(moves, before)]) > 0.05 * most
    for variable in ran.state.weights:
        np.testing.assert_array_equal(*locals_of(variable, ran.strategy))


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
@pytest.mark.parametrize("kind", ["l2", "decoupled"])
def test_weight_decay_is_in_the_clipped_gradient_or_beside_it(kind, devices):
    """Once, on any number of replicas; of kernels alone."""
    model, data = network(norm=False, dropout=0), batches(1)
    found = gradients(model, data["image"][0], data["label"][0])
    variables = list(map(_variable, model.trainable_variables))
    old = [v.numpy() for v in variables]
    decay = [0.5 * v * (v.ndim > 1) for v in old]
    most = float(norm_of(found)) / 2
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5, weight_decay_mode=kind, clip_norm=most)
    ran = start(model, data, recipe, devices=devices)
    ran.go()
    if kind == "l2":
        whole = [g + d for g, d in zip(found, decay)]
        moves = [w * most / norm_of(whole) for w in whole]
    else:
        moves = [g * most / norm_of(found) + d for g, d in zip(found, decay)]
    for v, a, m in zip(map(_variable, ran.net.trainable_variables), old, moves):
        np.testing.assert_allclose(v.numpy(), a - 0.1 * m, rtol=1e-5, atol=1e-6)


def test_class_weights_reach_the_loss():
    model, data = network(norm=False, dropout=0), batches(1)
    weights = np.array([3.0, 0.5, 1.0], np.float32)
    loss = start(model, data, class_weights=weights).go()[0]
    logits = model(data["image"][0].astype("f4"), training=False)
    labels = data["label"][0]
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert loss == pytest.approx(float(np.mean(expected * weights[labels])), rel=1e-5)


@pytest.mark.parametrize("freeze", ["batch_norm", "backbone"])
def test_what_is_frozen_stays_and_its_averages_with_it(freeze):
    recipe = dataclasses.replace(
        RECIPE, freeze=freeze, optimizer="adamw", weight_decay=0.1, weight_decay_mode="decoupled"
    )
    model = network()
    ran = start(model, batches(), recipe)
    ran.go(3)
    for layer, average in zip(ran.net.layers, ran.averaged.layers):
        if not layer.weights:
            continue
        before = model.get_layer(layer.name).get_weights()
        stays = layer.name == "bn" or (freeze == "backbone" and layer.name != "head")
        for was, now, mean in zip(before, layer.get_weights(), average.get_weights()):
            assert np.array_equal(was, now) == stays, layer.name
            assert np.allclose(was, mean, rtol=1e-6) == stays, layer.name


# --- parts -------------------------------------------------------------------------------------

PARTS = {
    "groups divide a part": {"batch_norm_group_size": 2},
    "freeze": {"freeze": "batch_norm"},
    "no batch norm": {},
}


@pytest.mark.parametrize("why", PARTS)
def test_a_batch_in_parts_gives_the_losses_and_weights_of_the_whole(why):
    """With mixing, dropout, clipping and weight decay; on one device and on two."""
    recipe = dataclasses.replace(
        RECIPE, optimizer="rmsprop", clip_norm=1.0, weight_decay=1e-3, **PARTS[why]
    )
    model, data = network(norm=why != "no batch norm"), batches(4, mixed=True)
    reached = {}
    for parts, devices in ((1, "cpu"), (2, "cpu"), (4, "cpu"), (2, "cpu:2")):
        phase = dataclasses.replace(PHASE, accumulation=parts)
        ran = start(model, data, recipe, phase, devices=devices, rate=0.01)
        reached[parts, devices] = [ran.go() for _ in range(4)], ran.weights()
    figures, weights = reached.pop((1, "cpu"))
    assert not np.allclose(weights[0], model.get_weights()[0], rtol=1e-3)
    for other_figures, other in reached.values():
        np.testing.assert_allclose(other_figures, figures, rtol=1e-5)
        for a, b in zip(other, weights):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_batch_norm_over_the_whole_batch_sees_the_parts():
    """Which is why equal losses need groups: the check above can tell."""
    model, data = network(), batches(1)
    whole = start(model, data).go()[0]
    halves = start(model, data, phase=dataclasses.replace(PHASE, accumulation=2)).go()[0]
    assert abs(whole - halves) > 1e-4


def test_the_parts_are_computed_one_after_the_other():
    """Or they would need the memory of the whole: each waits for the gradients before it."""
    phase = dataclasses.replace(PHASE, accumulation=2)
    graph = replica_graph(network(), RECIPE, phase)
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    assert len(convolutions) == 2
    backward = {op.name for op in graph.get_operations() if op.type == "Conv2DBackpropFilter"}
    seen, left = set(), [convolutions[1]]
    while left:
        op = left.pop()
        if op.name not in seen:
            seen.add(op.name)
            left += [t.op for t in op.inputs] + list(op.control_inputs)
    assert len(backward & seen) == 1


# --- float16 -----------------------------------------------------------------------------------

HALF = dataclasses.replace(RECIPE, precision="float16")


def linear(images):
    """A float16 network whose gradient is as large as its images, and batches of them."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten(dtype="mixed_float16")(inputs)
    x = keras.layers.Dense(CLASSES, name="head", dtype="mixed_float16")(x)
    data = {
        "image": np.asarray(images, np.uint8)[..., None, None, None]
        * np.ones((1, 1, SIZE, SIZE, 3), np.uint8),
        "label": np.arange(BATCH)[None].repeat(len(images), 0).astype(np.int32) % CLASSES,
    }
    return keras.Model(inputs, x), data


def test_an_overflow_on_one_replica_skips_the_step_on_both():
    """At 200 a pixel the scaled gradient is more than float16's 65504, at 1 it is not."""
    model, data = linear([[1] * 8, [1] * 4 + [200] * 4, [1] * 8])
    ran = start(model, data, HALF, devices="cpu:2", rate=1e-3)
    everything = (*ran.state.weights, *ran.state.averages, *ran.state.optimizer.slots)
    assert np.isfinite(ran.go()[2])
    assert ran.state.loss_scale.numpy() == 2.0**15
    assert ran.state.good_steps.numpy() == 1
    before = [locals_of(v, ran.strategy) for v in everything]
    loss, _, norm = ran.go()
    assert np.isfinite(loss)
    assert not np.isfinite(norm)
    for variable, old in zip(everything, before):
        np.testing.assert_array_equal(locals_of(variable, ran.strategy), old)
    assert locals_of(ran.state.loss_scale, ran.strategy) == [2.0**14] * 2
    assert locals_of(ran.state.good_steps, ran.strategy) == [0] * 2
    ran.go()
    for variable, old in zip(ran.state.weights, before):
        new = locals_of(variable, ran.strategy)
        np.testing.assert_array_equal(*new)
        assert not np.array_equal(new[0], old[0])


def test_the_loss_scale_grows_after_enough_good_steps(monkeypatch):
    monkeypatch.setattr(step, "_GROWTH_STEPS", 3)
    model, data = linear([[1] * 8])
    ran = start(model, data, HALF, rate=1e-3)
    scales = []
    for _ in range(4):
        ran.go()
        scales.append((ran.state.loss_scale.numpy(), ran.state.good_steps.numpy()))
    assert scales == [(2.0**15, 1), (2.0**15, 2), (2.0**16, 0), (2.0**16, 1)]


def test_the_loss_scale_does_not_fall_below_one():
    model, data = linear([[200] * 8])
    ran = start(model, data, HALF, rate=1e-3)
    ran.state.loss_scale.assign(1.0)
    ran.net.get_layer("head").set_weights([np.full((108, 3), np.nan, "f4"), np.zeros(3, "f4")])
    ran.go()
    assert ran.state.loss_scale.numpy() == 1.0


def test_the_scaled_float16_step_is_about_the_float32_step():
    full, data = network(dropout=0), batches(1)
    half = network(dropout=0, dtype="mixed_float16")
    half.set_weights(full.get_weights())
    moves = []
    for model, recipe in ((full, RECIPE), (half, HALF)):
        ran = start(model, data, recipe)
        ran.go()
        moves.append(np.concatenate([w.ravel() for w in ran.weights()]))
    before = np.concatenate([w.ravel() for w in full.get_weights()])
    assert norm_of([moves[0] - moves[1]]) < 0.02 * norm_of([moves[0] - before])


# --- tracing -----------------------------------------------------------------------------------


def test_a_phase_is_traced_once(monkeypatch):
    """Whatever the number of steps a call."""
    calls, make_step = [], step.make_step

    def make(*args):
        replica_step = make_step(*args)
        return lambda *inputs: calls.append(1) or replica_step(*inputs)

    monkeypatch.setattr(step, "make_step", make)
    ran = start(network(), batches(), rate=lambda n: 0.1 / tf.cast(n + 1, tf.float32))
    for steps in (1, 3, 2):
        assert np.isfinite(ran.go(steps)).all()
    assert len(calls) == 1


def replica_graph(model, recipe, phase):
    """The graph of one replica's step, of batches whose number of images is not said."""
    strategy = make_strategy("cpu")
    with strategy.scope():
        net = distributed_layers.training_clone(
            model, batch_norm_group_size=recipe.batch_norm_group_size, freeze=recipe.freeze
        )
        state = step.State.of(net, distributed_layers.training_clone(model), recipe)
    replica_step = tf.autograph.experimental.do_not_convert(
        step.make_step(recipe, phase, CLASSES, strategy, net, state, lambda n: 0.1)
    )

    @tf.function
    def once(batch):
        return strategy.run(replica_step, (batch, tf.constant(0, tf.int64)))

    spec = {
        k: tf.TensorSpec([None, *v.shape[2:]], v.dtype) for k, v in batches(1, mixed=True).items()
    }
    return once.get_concrete_function(spec).graph


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm_group_size": 2, "optimizer": "adamw", "clip_norm": 1.0},
        {"loss": "sigmoid", "optimizer": "rmsprop", "weight_decay": 1e-3},
    ],
    ids=str,
)
def test_every_shape_of_a_step_is_static_though_the_batchs_is_not(changes):
    """As a TPU wants them; several workers' iterators forget the batch's size."""
    recipe = dataclasses.replace(RECIPE, **changes)
    graph = replica_graph(network(), recipe, dataclasses.replace(PHASE, accumulation=2))
    unknown = [
        (op.type, op.name, out.shape)
        for op in graph.get_operations()
        for out in op.outputs
        if op.type != "Placeholder" and not out.shape.is_fully_defined() and not _reserved(out)
    ]
    assert not unknown


def _reserved(tensor):
    """What the kernel of batch norm keeps for its gradient on some GPUs, and its gradient."""
    if tensor.op.type == "ZerosLike":
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "FusedBatchNormV3" and tensor is tensor.op.outputs[5]
