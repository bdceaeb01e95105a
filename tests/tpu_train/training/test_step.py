import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.constructors import create_model
from tests.tpu_train.training.steps import (
    BATCH,
    CLASSES,
    PHASE,
    RECIPE,
    SIZE,
    batches,
    gradients,
    locals_of,
    network,
    norm_of,
    replica_graph,
    start,
    step_spec,
    variable_of,
)
from tpu_train.input_pipeline.targets import soft_targets
from tpu_train.training import step
from tpu_train.training.distribution import make_strategy

pytestmark = pytest.mark.every_stack

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
        losses = step.losses(kind, soft, tf.constant(LOGITS), None)
        expected = theirs(hot, tf.constant(LOGITS), from_logits=True, label_smoothing=smoothing)
        np.testing.assert_allclose(losses, times * expected, rtol=1e-5)


def test_a_class_weight_multiplies_the_loss_of_its_class():
    weights = np.array([0.5, 2.0, 3.0], np.float32)
    hot, logits = tf.one_hot(LABELS, CLASSES), tf.constant(LOGITS)
    plain = step.losses("softmax", hot, logits, None)
    np.testing.assert_allclose(
        step.losses("softmax", hot, logits, weights), weights[LABELS] * plain, rtol=1e-5
    )
    soft = tf.constant([[0.25, 0.75, 0]] * 4)
    expected = sum(
        weights[c] * soft[0, c] * step.losses("softmax", tf.one_hot([c] * 4, 3), logits, None)
        for c in range(2)
    )
    np.testing.assert_allclose(step.losses("softmax", soft, logits, weights), expected, rtol=1e-5)
    by_class = tf.nn.sigmoid_cross_entropy_with_logits(hot, logits)
    np.testing.assert_allclose(
        step.losses("sigmoid", hot, logits, weights), by_class.numpy() @ weights, rtol=1e-5
    )
    for kind in ("softmax", "sigmoid"):
        np.testing.assert_allclose(
            step.losses(kind, soft, logits, np.ones(3, np.float32)),
            step.losses(kind, soft, logits, None),
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
    before = [v.numpy() for v in map(variable_of, model.trainable_variables)]
    loss, correct, norm = trainer.train()
    after = [v.numpy() for v in map(variable_of, trainer.net.trainable_variables)]
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
    old = [v.numpy() for v in map(variable_of, model.trainable_variables)]
    assert trainer.train()[2] == pytest.approx(
        norm_of(total), rel=1e-5
    )  # as it was before clipping
    moves = [
        (a - v.numpy()) / 0.1
        for a, v in zip(old, map(variable_of, trainer.net.trainable_variables))
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
    variables = list(map(variable_of, model.trainable_variables))
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
    for v, a, m in zip(map(variable_of, trainer.net.trainable_variables), old, moves):
        np.testing.assert_allclose(v.numpy(), a - 0.1 * m, rtol=1e-5, atol=1e-6)


def test_class_weights_reach_the_loss():
    model, data = network(norm=False, dropout=0), batches(1)
    weights = np.array([3.0, 0.5, 1.0], np.float32)
    loss = start(model, data, class_weights=weights).train()[0]
    logits = model(data["image"][0].astype("f4"), training=False)
    labels = data["label"][0]
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert loss == pytest.approx(float(np.mean(expected * weights[labels])), rel=1e-5)


@pytest.mark.parametrize("freeze", ["batch_norm", "backbone", "conv", "bn+he*"])
def test_frozen_weights_and_their_ema_do_not_change(freeze):
    recipe = dataclasses.replace(
        RECIPE, optimizer="adamw", weight_decay=0.1, weight_decay_mode="decoupled"
    )
    model = network()
    trainer = start(model, batches(), recipe, dataclasses.replace(PHASE, freeze=freeze))
    trainer.train(3)
    for layer, average in zip(trainer.net.layers, trainer.ema_model.layers):
        if not layer.weights:
            continue
        before = model.get_layer(layer.name).get_weights()
        frozen = {"batch_norm": ["bn"], "conv": ["conv"], "bn+he*": ["bn", "head"]}
        stays = layer.name in frozen.get(freeze, ["conv", "bn"])
        for was, now, mean in zip(before, layer.get_weights(), average.get_weights()):
            assert np.array_equal(was, now) == stays, layer.name
            assert np.allclose(was, mean, rtol=1e-6) == stays, layer.name


def test_nothing_is_computed_backward_for_frozen_layers():
    """Below the first layer that trains: no gradient of the convolution, nor of its input."""
    operations = {
        freeze: [
            op.type
            for op in replica_graph(
                network(), RECIPE, dataclasses.replace(PHASE, freeze=freeze)
            ).get_operations()
        ]
        for freeze in ("none", "backbone")
    }
    assert any("Backprop" in kind for kind in operations["none"])
    assert not any("Backprop" in kind for kind in operations["backbone"])
    assert len(operations["backbone"]) < len(operations["none"])


def test_the_optimizers_steps_of_a_layer_count_from_its_first_phase():
    """Adam's first update is as large as the learning rate, whenever a layer begins to train."""
    recipe = dataclasses.replace(RECIPE, optimizer="adamw", weight_decay=0.0)
    head = dataclasses.replace(PHASE, freeze="backbone", end_step=5)
    full = dataclasses.replace(PHASE, number=2, first_step=5)
    strategy, model = make_strategy("cpu"), network(norm=False, dropout=0)
    spec, _ = step_spec(strategy, model, recipe, full, rate=0.01, phases=[head, full])
    assert spec.state.trained == {"none": [0, 1, 2, 3], "backbone": [2, 3]}
    data = batches(1)
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda _: tf.data.Dataset.from_tensor_slices(data).repeat()
        )
    )
    step.trace_steps(spec, iterator)(iterator, tf.constant(5, tf.int64), tf.constant(1, tf.int64))
    before, after = (m.get_layer("conv").get_weights()[0] for m in (model, spec.model))
    np.testing.assert_allclose(np.abs(after - before).max(), 0.01, rtol=1e-3)


def test_layer_decay_lowers_the_rate_of_each_group(tiny):
    """The update of SGD without momentum is the gradient times the rate of the group."""
    recipe = dataclasses.replace(RECIPE, momentum=0.0)
    shape = {"input_shape": (None, None, 3), "classes": CLASSES, "classifier_activation": None}
    model, data = create_model(tiny, **shape), batches(1)
    phase = dataclasses.replace(PHASE, dropout_rate=0.0, drop_path_rate=0.0, freeze="batch_norm")
    moves = []
    for decay in (1.0, 0.5):
        trainer = start(model, data, dataclasses.replace(recipe, layer_decay=decay), phase)
        trainer.train()
        moves.append([a - b for a, b in zip(trainer.weights(), model.get_weights())])
    names = [w.name if isinstance(w, tf.Variable) else w.path for w in model.weights]
    names = [name.removesuffix(":0") for name in names]  # Keras 2
    full, decayed = (dict(zip(names, m)) for m in moves)
    for layer, factor in (("predictions", 1), ("top_conv", 0.5), ("stem_conv", 0.0625)):
        np.testing.assert_allclose(
            decayed[f"{layer}/kernel"], factor * full[f"{layer}/kernel"], rtol=1e-3, atol=1e-7
        )


def test_a_phase_that_trains_nothing_is_an_error(tiny):
    model = create_model(tiny, classes=CLASSES)
    for freeze, message in (("head", "leaves nothing to train"), ("blok1", "Did you mean 'block1")):
        phase = dataclasses.replace(PHASE, freeze=freeze)
        with pytest.raises(ValueError, match=message):
            step.TrainState.create(model, model, RECIPE, [phase])


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
