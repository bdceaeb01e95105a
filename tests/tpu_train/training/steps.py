"""A small network that trains step by step, for tests of the training step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
    freeze="none",
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
        return self.run(tf.constant(first, tf.int64), tf.constant(steps, tf.int64)).numpy()[:3]

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


def step_spec(strategy, model, recipe, phase, rate=0.1, class_weights=None, phases=None):
    """(The spec of a step that trains a clone of `model`, the clone with its EMA weights)."""
    with strategy.scope():
        net = distributed_layers.training_clone(
            model, batch_norm_group_size=recipe.batch_norm_group_size
        )
        ema_net = distributed_layers.training_clone(model)
        state = step.TrainState.create(net, ema_net, recipe, phases or [phase])
    distributed_layers.set_frozen(net, phase.freeze)
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
    expected_gradients = tape.gradient(loss, [variable_of(v) for v in model.trainable_variables])
    return [g.numpy() for g in expected_gradients]


def variable_of(v):
    return v if isinstance(v, tf.Variable) else v.value


def norm_of(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def locals_of(variable, strategy):
    return [v.numpy() for v in strategy.experimental_local_results(variable)]


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
