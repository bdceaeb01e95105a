"""Exact evaluation: every image counts once, on any number of replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tpu_train.input_pipeline.batches import evaluation_batches
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.schema import Recipe


def make_evaluation(
    strategy: tf.distribute.Strategy,
    models: Mapping[str, keras.Model],
    source: ImageSource,
    recipe: Recipe,
) -> Callable[[], dict[str, float]]:
    """A function without arguments that returns {name: accuracy in [0, 1]} of `models`.

    `models` maps names to classifiers that return logits. All are evaluated on the same batches,
    preprocessed as the recipe says. A prediction for an image of several labels is correct if it is
    one of them. The last batch is padded with images of weight 0. The function is traced once, at
    its first call.
    """
    replicas = strategy.num_replicas_in_sync
    batch_size = -(-min(recipe.batch_size, source.examples) // replicas) * replicas

    def batches(context):
        return evaluation_batches(
            source,
            recipe.image_size_eval,
            batch_size,
            replicas=replicas,
            crop=recipe.crop_eval,
            interpolation=recipe.interpolation,
            ignore_exif=recipe.ignore_exif,
            host=context.input_pipeline_id,
            hosts=context.num_input_pipelines,
        )

    @tf.function(jit_compile=False)
    def count_correct(batch):
        def replica_fn(batch):
            labels = batch["label"]
            labels = labels[:, None] if len(labels.shape) == 1 else labels
            counts = []
            for model in models.values():
                best = tf.argmax(model(batch["image"], training=False), -1, output_type=tf.int32)
                correct = tf.reduce_any(best[:, None] == labels, -1)
                counts.append(tf.reduce_sum(tf.cast(correct, tf.float32) * batch["weight"]))
            return tf.stack(counts)

        return strategy.reduce("SUM", strategy.run(replica_fn, args=(batch,)), axis=None)

    def evaluate():
        counts = 0.0
        for batch in strategy.distribute_datasets_from_function(batches):
            counts += count_correct(batch).numpy()
        return {name: float(c) / source.examples for name, c in zip(models, counts)}

    return evaluate
