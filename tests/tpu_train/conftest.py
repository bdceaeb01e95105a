"""A recipe and a data set small enough for a test: TINY, 24 random images, 4 classes."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from keras_effnet.variants import VARIANTS
from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.recipes.table import RECIPES


@pytest.fixture
def tiny_recipe(monkeypatch, tiny):
    """Everything on: two phases of two sizes, RandAugment, mixup, dropout, drop path, clipping."""
    monkeypatch.setitem(VARIANTS, "tiny", tiny)
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
def source():
    """24 images whose colour tells their class, so that a network can learn them."""
    random = np.random.default_rng(0)
    labels = np.arange(24) % 4
    images = random.integers(0, 80, (24, 20, 30, 3))
    images[..., 0] += (labels * 55)[:, None, None]
    return from_arrays("colours", images.clip(0, 255).astype(np.uint8), labels, "abcd")
