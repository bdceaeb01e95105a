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
    """A small model with every kind of layer that matters to a step; always the same weights."""
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
    """Global batches, as those of `training_batches`."""
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
class Trainer:
    """A model that trains step by step."""

    net: Any
    ema_model: Any
    state: Any
    strategy: Any
    run: Any  # (steps) -> float32 [3] sums
    at: int = 0

    def train(self, steps=1):
        """Runs `steps` more steps: [loss, correct, gradient norm], summed."""
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
    spec, ema_model = step_spec(strategy, model, recipe, phase, rate, class_weights)
    replicas = strategy.num_replicas_in_sync
    images = phase.batch_size // replicas
    part = images // phase.accumulation
    local = {  # the rows of rows_of, for every replica
        k: v.reshape(-1, phase.accumulation, replicas, part, *v.shape[2:])
        .swapaxes(1, 2)
        .reshape(-1, images, *v.shape[2:])
        for k, v in data.items()
    }
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda _: tf.data.Dataset.from_tensor_slices(local).repeat()
        )
    )
    run_steps = step.trace_steps(spec, iterator)
    return Trainer(
        spec.model, ema_model, spec.state, strategy, lambda first, n: run_steps(iterator, first, n)
    )


def step_spec(strategy, model, recipe, phase, rate=0.1, class_weights=None):
    """(The spec of a step that trains a clone of `model`, the clone with its EMA weights)."""
    with strategy.scope():
        net = distributed_layers.training_clone(
            model, batch_norm_group_size=recipe.batch_norm_group_size, freeze=recipe.freeze
        )
        ema_net = distributed_layers.training_clone(model)
        state = step.TrainState.create(net, ema_net, recipe)
    spec = step.StepSpec(
        recipe=recipe,
        phase=phase,
        classes=CLASSES,
        strategy=strategy,
        model=net,
        state=state,
        learning_rate=rate if callable(rate) else lambda n: tf.constant(rate),
        class_weights=class_weights,
    )
    return spec, ema_net


def gradients(model, images, labels, weight=1.0):
    """Gradients of the mean cross entropy by Keras alone, in the order of its variables."""
    with tf.GradientTape() as tape:
        logits = model(tf.cast(images, tf.float32), training=False)
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        loss = weight * tf.reduce_mean(losses)
    expected_gradients = tape.gradient(loss, [_variable(v) for v in model.trainable_variables])
    return [g.numpy() for g in expected_gradients]


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
def test_losses_equal_keras(smoothing):
    hot = tf.one_hot(LABELS, CLASSES)
    for kind, theirs, times in (
        ("softmax", keras.losses.categorical_crossentropy, 1),
        ("sigmoid", keras.losses.binary_crossentropy, CLASSES),  # Keras's is the classes' mean
    ):
        soft = soft_targets(tf.constant(LABELS, tf.int32), CLASSES, smoothing=smoothing, loss=kind)
        losses = step._losses(kind, soft, tf.constant(LOGITS), None)
        expected = theirs(hot, tf.constant(LOGITS), from_logits=True, label_smoothing=smoothing)
        np.testing.assert_allclose(losses, times * expected, rtol=1e-5)


def test_a_class_weight_multiplies_the_loss_of_its_class():
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


def test_a_prediction_of_any_label_is_correct():
    logits = tf.one_hot([2, 0, 1], CLASSES)
    assert step._correct({"label": tf.constant([2, 1, 1])}, logits) == 2
    assert step._correct({"label": tf.constant([[0, 2], [1, -1], [1, 0]])}, logits) == 2
    soft = tf.constant([[0.4, 0, 0.6], [0.4, 0.6, 0], [0, 1.0, 0]])
    assert step._correct({"target": soft}, logits) == 2


# --- one step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_a_step_follows_the_gradient_of_the_global_mean_loss(devices):
    model, data = network(norm=False, dropout=0), batches(1)
    trainer = start(model, data, devices=devices)
    images, labels = data["image"][0], data["label"][0]
    expected_gradients = gradients(model, images, labels)
    before = [v.numpy() for v in map(_variable, model.trainable_variables)]
    loss, correct, norm = trainer.train()
    after = [v.numpy() for v in map(_variable, trainer.net.trainable_variables)]
    for a, b, g in zip(after, before, expected_gradients):
        np.testing.assert_allclose(a, b - 0.1 * g, rtol=1e-5, atol=1e-6)
    logits = model(images.astype("f4"), training=False).numpy()
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert loss == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert correct == (logits.argmax(1) == labels).sum()
    assert norm == pytest.approx(norm_of(expected_gradients), rel=1e-5)


def test_moving_statistics_equal_keras_with_the_recipes_momentum():
    model, data = network(dropout=0), batches(1)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin(data["image"][0].astype("f4"), training=True)
    mean, variance = twin.get_layer("bn").get_weights()[2:]
    count = BATCH * (SIZE - 2) ** 2
    if keras.__version__.startswith("2."):  # whose kernel returns the unbiased estimate
        variance = 0.8 + (variance - 0.8) * (count - 1) / count
    for devices in ("cpu", "cpu:2"):
        trainer = start(model, data, devices=devices)
        trainer.train()
        for value, reference in zip(trainer.named("bn")[2:], (mean, variance)):
            np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)
    faster = start(model, data, dataclasses.replace(RECIPE, batch_norm_momentum=0.5))
    faster.train()
    np.testing.assert_allclose(faster.named("bn")[2], mean / 0.2 * 0.5, rtol=1e-5)


def test_the_ema_covers_all_weights_with_the_official_ramp():
    trainer = start(network(), batches())
    expected = trainer.ema_model.get_weights()
    for n in range(3):
        trainer.train()
        decay = min(RECIPE.ema_decay, (1 + n) / (10 + n))
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, trainer.weights())]
    for a, b in zip(trainer.ema_model.get_weights(), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    start_mean = network().get_layer("bn").get_weights()[2]
    assert not np.allclose(trainer.ema_model.get_layer("bn").get_weights()[2], start_mean)


def test_the_gradient_is_clipped_after_the_all_reduce():
    """Clipping each replica's half first would change the direction of the sum."""
    model, data = network(norm=False, dropout=0), batches(1)
    data["image"][0, :4] //= 8  # so that the norms of both replicas' gradients differ
    per_replica = [
        gradients(model, data["image"][0, i : i + 4], data["label"][0, i : i + 4], 0.5)
        for i in (0, 4)
    ]
    total = [a + b for a, b in zip(*per_replica)]
    most = 0.5 * min(map(norm_of, (*per_replica, total)))  # so that everything is clipped
    after = [g * most / norm_of(total) for g in total]
    before = [
        sum(g * most / 2 / norm_of(half) for g, half in zip(pair, per_replica))
        for pair in zip(*per_replica)
    ]
    recipe = dataclasses.replace(RECIPE, clip_norm=float(most))
    trainer = start(model, data, recipe, devices="cpu:2")
    old = [v.numpy() for v in map(_variable, model.trainable_variables)]
    assert trainer.train()[2] == pytest.approx(
        norm_of(total), rel=1e-5
    )  # as it was before clipping
    moves = [
        (a - v.numpy()) / 0.1 for a, v in zip(old, map(_variable, trainer.net.trainable_variables))
    ]
    assert norm_of([m - a for m, a in zip(moves, after)]) < 1e-4 * most
    assert norm_of([m - b for m, b in zip(moves, before)]) > 0.05 * most
    for variable in trainer.state.weights:
        np.testing.assert_array_equal(*locals_of(variable, trainer.strategy))


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
@pytest.mark.parametrize("kind", ["l2", "decoupled"])
def test_weight_decay_is_in_the_clipped_gradient_or_beside_it(kind, devices):
    """Once, on any number of replicas, and only for kernels."""
    model, data = network(norm=False, dropout=0), batches(1)
    expected_gradients = gradients(model, data["image"][0], data["label"][0])
    variables = list(map(_variable, model.trainable_variables))
    old = [v.numpy() for v in variables]
    decay = [0.5 * v * (v.ndim > 1) for v in old]
    most = float(norm_of(expected_gradients)) / 2
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5, weight_decay_mode=kind, clip_norm=most)
    trainer = start(model, data, recipe, devices=devices)
    trainer.train()
    if kind == "l2":
        total = [g + d for g, d in zip(expected_gradients, decay)]
        moves = [w * most / norm_of(total) for w in total]
    else:
        moves = [
            g * most / norm_of(expected_gradients) + d for g, d in zip(expected_gradients, decay)
        ]
    for v, a, m in zip(map(_variable, trainer.net.trainable_variables), old, moves):
        np.testing.assert_allclose(v.numpy(), a - 0.1 * m, rtol=1e-5, atol=1e-6)


def test_class_weights_reach_the_loss():
    model, data = network(norm=False, dropout=0), batches(1)
    weights = np.array([3.0, 0.5, 1.0], np.float32)
    loss = start(model, data, class_weights=weights).train()[0]
    logits = model(data["image"][0].astype("f4"), training=False)
    labels = data["label"][0]
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert loss == pytest.approx(float(np.mean(expected * weights[labels])), rel=1e-5)


@pytest.mark.parametrize("freeze", ["batch_norm", "backbone"])
def test_frozen_weights_and_their_ema_do_not_change(freeze):
    recipe = dataclasses.replace(
        RECIPE, freeze=freeze, optimizer="adamw", weight_decay=0.1, weight_decay_mode="decoupled"
    )
    model = network()
    trainer = start(model, batches(), recipe)
    trainer.train(3)
    for layer, average in zip(trainer.net.layers, trainer.ema_model.layers):
        if not layer.weights:
            continue
        before = model.get_layer(layer.name).get_weights()
        stays = layer.name == "bn" or (freeze == "backbone" and layer.name != "head")
        for was, now, mean in zip(before, layer.get_weights(), average.get_weights()):
            assert np.array_equal(was, now) == stays, layer.name
            assert np.allclose(was, mean, rtol=1e-6) == stays, layer.name


# --- gradient accumulation ---------------------------------------------------------------------

CASES = {
    "groups divide an accumulation step": {"batch_norm_group_size": 2},
    "freeze": {"freeze": "batch_norm"},
    "no batch norm": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("why", CASES)
def test_accumulation_gives_the_same_losses_and_weights(why):
    """With mixing, dropout, clipping and weight decay; on one device and on two."""
    recipe = dataclasses.replace(
        RECIPE, optimizer="rmsprop", clip_norm=1.0, weight_decay=1e-3, **CASES[why]
    )
    model, data = network(norm=why != "no batch norm"), batches(4, mixed=True)
    reached = {}
    for accumulation, devices in ((1, "cpu"), (2, "cpu"), (4, "cpu"), (2, "cpu:2")):
        phase = dataclasses.replace(PHASE, accumulation=accumulation)
        trainer = start(model, data, recipe, phase, devices=devices, rate=0.01)
        reached[accumulation, devices] = [trainer.train() for _ in range(4)], trainer.weights()
    metrics, weights = reached.pop((1, "cpu"))
    assert not np.allclose(weights[0], model.get_weights()[0], rtol=1e-3)
    for other_metrics, other in reached.values():
        np.testing.assert_allclose(other_metrics, metrics, rtol=1e-5)
        for a, b in zip(other, weights):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_batch_norm_without_groups_depends_on_accumulation():
    """So the test above needs groups to get equal losses."""
    model, data = network(), batches(1)
    total = start(model, data).train()[0]
    per_replica = start(model, data, phase=dataclasses.replace(PHASE, accumulation=2)).train()[0]
    assert abs(total - per_replica) > 1e-4


def test_accumulation_steps_run_one_after_the_other():
    """In parallel they would need the memory of the full batch."""
    phase = dataclasses.replace(PHASE, accumulation=2)
    graph = replica_graph(network(), RECIPE, phase)
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    assert len(convolutions) == 2
    backward = {op.name for op in graph.get_operations() if op.type == "Conv2DBackpropFilter"}
    visited, queue = set(), [convolutions[1]]
    while queue:
        op = queue.pop()
        if op.name not in visited:
            visited.add(op.name)
            queue += [t.op for t in op.inputs] + list(op.control_inputs)
    assert len(backward & visited) == 1


# --- float16 -----------------------------------------------------------------------------------

HALF = dataclasses.replace(RECIPE, precision="float16")


def linear(images):
    """A float16 model whose gradient is proportional to its images, and batches of images."""
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


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    """With pixels of 200 the scaled gradient exceeds float16's maximum of 65504."""
    model, data = linear([[1] * 8, [1] * 4 + [200] * 4, [1] * 8])
    trainer = start(model, data, HALF, devices="cpu:2", rate=1e-3)
    everything = (
        *trainer.state.weights,
        *trainer.state.ema_weights,
        *trainer.state.optimizer.slots,
    )
    assert np.isfinite(trainer.train()[2])
    assert trainer.state.loss_scale.numpy() == 2.0**15
    assert trainer.state.good_steps.numpy() == 1
    before = [locals_of(v, trainer.strategy) for v in everything]
    loss, _, norm = trainer.train()
    assert np.isfinite(loss)
    assert not np.isfinite(norm)
    for variable, old in zip(everything, before):
        np.testing.assert_array_equal(locals_of(variable, trainer.strategy), old)
    assert locals_of(trainer.state.loss_scale, trainer.strategy) == [2.0**14] * 2
    assert locals_of(trainer.state.good_steps, trainer.strategy) == [0] * 2
    trainer.train()
    for variable, old in zip(trainer.state.weights, before):
        new = locals_of(variable, trainer.strategy)
        np.testing.assert_array_equal(*new)
        assert not np.array_equal(new[0], old[0])


def test_the_loss_scale_grows_after_enough_good_steps(monkeypatch):
    monkeypatch.setattr(step, "_GROWTH_STEPS", 3)
    model, data = linear([[1] * 8])
    trainer = start(model, data, HALF, rate=1e-3)
    scales = []
    for _ in range(4):
        trainer.train()
        scales.append((trainer.state.loss_scale.numpy(), trainer.state.good_steps.numpy()))
    assert scales == [(2.0**15, 1), (2.0**15, 2), (2.0**16, 0), (2.0**16, 1)]


def test_the_loss_scale_does_not_fall_below_one():
    model, data = linear([[200] * 8])
    trainer = start(model, data, HALF, rate=1e-3)
    trainer.state.loss_scale.assign(1.0)
    trainer.net.get_layer("head").set_weights([np.full((108, 3), np.nan, "f4"), np.zeros(3, "f4")])
    trainer.train()
    assert trainer.state.loss_scale.numpy() == 1.0


def test_a_float16_step_is_close_to_a_float32_step():
    full, data = network(dropout=0), batches(1)
    half = network(dropout=0, dtype="mixed_float16")
    half.set_weights(full.get_weights())
    moves = []
    for model, recipe in ((full, RECIPE), (half, HALF)):
        trainer = start(model, data, recipe)
        trainer.train()
        moves.append(np.concatenate([w.ravel() for w in trainer.weights()]))
    before = np.concatenate([w.ravel() for w in full.get_weights()])
    assert norm_of([moves[0] - moves[1]]) < 0.02 * norm_of([moves[0] - before])


# --- tracing -----------------------------------------------------------------------------------


def test_a_phase_is_traced_once(monkeypatch):
    """For any number of steps per call."""
    calls, make_step = [], step.make_step

    def make(*args):
        replica_step = make_step(*args)
        return lambda *inputs: calls.append(1) or replica_step(*inputs)

    monkeypatch.setattr(step, "make_step", make)
    trainer = start(network(), batches(), rate=lambda n: 0.1 / tf.cast(n + 1, tf.float32))
    for steps in (1, 3, 2):
        assert np.isfinite(trainer.train(steps)).all()
    assert len(calls) == 1


def replica_graph(model, recipe, phase):
    """The graph of one replica's step on batches of unknown size."""
    strategy = make_strategy("cpu")
    spec, _ = step_spec(strategy, model, recipe, phase)
    replica_step = tf.autograph.experimental.do_not_convert(step.make_step(spec))

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
def test_all_shapes_of_a_step_are_static(changes):
    """As TPUs require; the iterators of several workers lose the static batch size."""
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
    """The output of the batch-norm kernel that is reserved for GPUs, and its gradient."""
    if tensor.op.type == "ZerosLike":
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "FusedBatchNormV3" and tensor is tensor.op.outputs[5]
