"""Outputs of a frozen backbone, computed once for every training image.

If nothing in front of the layers that train depends on chance (no augmentation, no dropout), every
step would compute the same for an image. The phase then trains the layers behind, the head, on
outputs that are computed before its first step. Its weights are those of training on images, to
float rounding. A resumed run computes the outputs again in the same batches: its bits are the same.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_effnet.finetuning import select_layers
from keras_effnet.model_graph import last_calls
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.input_pipeline.encoded_images import slice_window
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.phases import Phase, random_settings
from tpu_train.recipes.schema import Recipe
from tpu_train.training import distributed_layers
from tpu_train.training.evaluation import (
    distributed_batches,
    evaluation_batch_size,
    gathered_outputs,
)

MAX_BYTES = 2**30  # of the outputs, which stay in memory


@dataclass(frozen=True)
class FeatureCache:
    """The layers that train, and what they get for every training image."""

    head: keras.Model  # shares its layers with the network
    features: np.ndarray  # float32 (training images, ...)

    def batches(
        self, source: ImageSource, recipe: Recipe, phase: Phase, **steps_and_host
    ) -> tf.data.Dataset:
        """:func:`~tpu_train.input_pipeline.batches.training_batches`, of features as images."""
        # The order is that of training_batches: of blank images, whose labels are their numbers.
        numbers = np.arange(source.examples, dtype=np.int32)
        blank = tf.zeros([1, 1, 3], tf.uint8)
        order = ImageSource(
            source.name, source.classes, numbers, lambda i: blank, tf.shape, slice_window
        )
        batches = training_batches(
            order, recipe, dataclasses.replace(phase, image_size=1), **steps_and_host
        )
        features, labels = tf.constant(self.features), tf.constant(source.labels)

        def look_up(batch):
            return {
                "image": tf.gather(features, batch["label"]),
                "label": tf.gather(labels, batch["label"]),
            }

        return batches.map(look_up, tf.data.AUTOTUNE).prefetch(2)


def make_feature_cache(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    source: ImageSource,
    recipe: Recipe,
    phase: Phase,
    *,
    log: Callable[[str], object],
    before_batch: Callable[[], object] = lambda: None,
) -> FeatureCache | None:
    """The cache of a phase; None if its steps need the images, or it reads each once.

    `model` is a training clone whose phase is set
    (:func:`~tpu_train.training.distributed_layers.set_phase`). All workers must call it;
    `before_batch` is called before each batch of images.
    """
    images = (phase.end_step - phase.first_step) * phase.batch_size
    if images <= source.examples:
        return None
    changing = random_settings(recipe, phase)
    changing += ["drop_path"] if _drops_paths(model) else []
    changing += [name for name in ("unlabeled_ratio", "teacher") if getattr(recipe, name)]
    if changing:
        if "backbone" in phase.freeze.split("+"):
            log(
                f"phase {phase.number}: the frozen backbone is computed in every step, because of "
                f"{', '.join(changing)}; without them once for each image (docs/fine-tuning.md)"
            )
        return None
    parts = split_model(model, phase.freeze)
    if parts is None:
        return None
    backbone, head = parts
    shape = backbone.output_shape[1:]
    if None in shape:
        return None
    size = 4 * source.examples * math.prod(shape)
    if size > MAX_BYTES:
        log(
            f"phase {phase.number}: the frozen layers are computed in every step: their outputs "
            f"for all images need {size / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:.1f}"
        )
        return None
    log(
        f"phase {phase.number}: computing the outputs of the frozen layers once, for "
        f"{source.examples} images: they are not augmented"
    )
    whole = dataclasses.replace(recipe, image_size_eval=phase.image_size, crop_eval=0.0)
    batch_size = evaluation_batch_size(strategy, source, recipe)
    outputs_of = gathered_outputs(strategy, backbone)
    features = np.zeros([source.examples, *shape], np.float32)
    for batch in distributed_batches(strategy, source, whole, batch_size)():
        before_batch()
        index, outputs = outputs_of(batch)
        features[index] = outputs
    return FeatureCache(head, features)


def split_model(model: keras.Model, freeze: str) -> tuple[keras.Model, keras.Model] | None:
    """(backbone, head): a model in two, of which only the head trains or depends on chance.

    The head is a chain of layers. None if there is no such head: if layers that train have others
    beside them, or if all layers belong to it.
    """
    frozen = {id(layer) for layer in select_layers(model, freeze)}
    left = {id(layer) for layer in model.layers if not _is_constant(layer, frozen)}
    boundary, calls = model.outputs[0], last_calls(model)
    while left:
        layer, boundary = next(calls, (None, None))
        if layer is None:
            return None
        left.discard(id(layer))
    if boundary is model.outputs[0] or boundary is model.inputs[0]:
        return None
    backbone = keras.Model(model.inputs[0], boundary)
    if not all(_is_constant(layer, frozen) for layer in backbone.layers):
        return None  # a layer that trains is called a second time
    return backbone, keras.Model(boundary, model.outputs[0])


def _drops_paths(model):
    return any(
        isinstance(layer, distributed_layers.SeededDropout) and layer.noise_shape and layer.rate
        for layer in model.layers
    )


def _is_constant(layer, frozen):
    """Whether a layer computes the same in every step."""
    if layer.trainable_weights and id(layer) not in frozen:
        return False
    if isinstance(layer, distributed_layers.SeededDropout):
        return layer.rate == 0
    if isinstance(layer, distributed_layers.GroupedBatchNorm):
        return layer.frozen or not layer.trainable
    # Others that know whether they train may be random, or have layers inside that are.
    return "training" not in inspect.signature(layer.call).parameters
