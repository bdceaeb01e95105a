import dataclasses
import sys

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline import keras_cv_layers
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.recipes.phases import make_phases
from tpu_train.recipes.table import find_recipe


def test_a_missing_keras_cv_names_the_alternative(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    recipe = dataclasses.replace(find_recipe("digits"), augment="keras_cv")
    with pytest.raises(ValueError, match=r"needs keras_cv.*or use --augment=randaugment"):
        keras_cv_layers.make_augmentation(recipe, make_phases(recipe, 64)[0], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_keras_cv_returns_images_and_soft_targets(source, mixup, cutmix):
    recipe = dataclasses.replace(
        find_recipe("photos"),
        **{"augment": "keras_cv", "batch_size": 8, "phases": 1, "image_size_last": 32},
        **{"mixup_last": mixup, "cutmix_last": cutmix, "label_smoothing": 0.0},
    )
    (phase,) = make_phases(recipe, source.examples)
    batches = training_batches(source, recipe, phase, first_step=0, end_step=3, replicas=1)
    (images, targets) = zip(*((b["image"], b["target"].numpy()) for b in batches))
    assert {(b.shape, b.dtype) for b in images} == {(tf.TensorShape([8, 32, 32, 3]), tf.uint8)}
    assert all(b.shape == (8, 4) for b in targets)
    np.testing.assert_allclose(np.sum(targets, -1), 1, atol=1e-6)
    soft = ((np.array(targets) > 1e-3) & (np.array(targets) < 1 - 1e-3)).any()
    assert soft == bool(mixup or cutmix)
