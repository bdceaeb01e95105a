"""Two virtual CPU devices, and recipes and data that are small enough for tests."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf

from keras_effnet.variants import NETWORKS
from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.recipes.table import RECIPES

_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture
def tiny_recipe(monkeypatch, tiny):
    """Everything on: two phases of two sizes, RandAugment, mixup, dropout, drop path, clipping."""
    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    return dataclasses.replace(
        RECIPES["digits"],
        name="tiny",
        model="tiny",
        epochs=4,
        batch_size=8,
        phases=2,
        image_size_first=32,
        image_size_last=40,
        image_size_eval=40,
        mixup_first=0.2,
        mixup_last=0.4,
        cutmix_first=0.5,
        cutmix_last=1.0,
        drop_path_first=0.2,
        drop_path_last=0.3,
        learning_rate=1e-2,
        clip_norm=0.5,
        steps_per_loop=3,
    )


@pytest.fixture
def conv_recipe():
    """One convolution and a batch norm: 12 steps in two phases, 3 steps per host call."""
    return dataclasses.replace(
        RECIPES["digits"],
        name="conv",
        model="tests.tpu_train.networks:conv_network",
        epochs=4,
        batch_size=8,
        phases=2,
        image_size_first=32,
        image_size_last=36,
        image_size_eval=32,
        augment="none",
        random_crop_min_area=1.0,
        zero_init_classifier=False,
        steps_per_loop=3,
        learning_rate=1.0,
    )


@pytest.fixture
def source():
    """24 images whose color tells their class, so that a network can learn them."""
    random = np.random.default_rng(0)
    labels = np.arange(24) % 4
    images = random.integers(0, 80, (24, 20, 30, 3))
    images[..., 0] += (labels * 55)[:, None, None]
    return from_arrays("colors", images.clip(0, 255).astype(np.uint8), labels, "abcd")


@pytest.fixture
def pseudo_labeled(source):
    """`source` with 10 pseudo-labeled images, whose scores tell them apart."""
    random = np.random.default_rng(1)
    scores = random.dirichlet(np.ones(4), 10).astype(np.float32)
    images = random.integers(0, 256, (10, 20, 30, 3)).astype(np.uint8)
    unlabeled = from_arrays("unlabeled", images, scores.argmax(1), "abcd")
    constant = tf.constant(scores)
    unlabeled = dataclasses.replace(
        unlabeled, read_scored=lambda i: (unlabeled.read(i), constant[i]), fingerprint="scores"
    )
    return dataclasses.replace(source, unlabeled=unlabeled)
