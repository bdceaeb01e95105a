"""Exact evaluation: every image counts once, on any number of replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.batches import evaluation_batches
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.targets import soft_targets
from tpu_train.recipes.schema import Recipe
from tpu_train.training.distribution import distributed_dataset
from tpu_train.training.step import losses

_TOP = 5


def make_evaluation(
    strategy: tf.distribute.Strategy,
    models: Mapping[str, keras.Model],
    source: ImageSource,
    recipe: Recipe,
) -> Callable[[], dict[str, float]]:
    """A function without arguments that evaluates classifiers of logits: means over all images.

    For each name in `models` the result has the top-1 accuracy in [0, 1] as ``name``, the loss as
    ``loss_name``, and for more than five classes the top-5 accuracy as ``top5_name``. The loss is
    the recipe's, without label smoothing and class weights. A prediction for an image of several
    labels is correct if it is one of them.

    All models are evaluated on the same batches, preprocessed as the recipe says. The last batch is
    padded with images of weight 0. The function is traced once, at its first call.
    """
    classes = len(source.classes)
    batch_size = evaluation_batch_size(strategy, source, recipe)
    batches = distributed_batches(strategy, source, recipe, batch_size)

    @tf.function(jit_compile=False)
    def sum_metrics(batch):
        def replica_fn(batch):
            targets = soft_targets(batch["label"], classes, smoothing=0.0, loss=recipe.loss)
            rows = [
                _metrics(recipe.loss, targets, model(batch["image"], training=False), batch)
                for model in models.values()
            ]
            return tf.stack(rows)

        return strategy.reduce("SUM", strategy.run(replica_fn, args=(batch,)), axis=None)

    def evaluate():
        sums = sum(sum_metrics(batch).numpy().astype("float64") for batch in batches())
        result = {}
        for name, (correct, in_top, loss) in zip(models, (sums / source.examples).tolist()):
            result[name] = correct
            result[f"loss_{name}"] = loss
            if classes > _TOP:
                result[f"top5_{name}"] = in_top
        return result

    return evaluate


def evaluation_batch_size(
    strategy: tf.distribute.Strategy, source: ImageSource, recipe: Recipe
) -> int:
    """The number of images of a global evaluation batch: a multiple of the replicas."""
    replicas = strategy.num_replicas_in_sync
    return -(-min(recipe.batch_size, source.examples) // replicas) * replicas


def distributed_batches(
    strategy: tf.distribute.Strategy, source: ImageSource, recipe: Recipe, batch_size: int
) -> Callable[[], Iterable]:
    """A function that returns the evaluation batches of all replicas, from the first to the last.

    An element is as in :func:`tpu_train.input_pipeline.batches.evaluation_batches`.
    """

    def batches(context):
        return evaluation_batches(
            source,
            recipe.image_size_eval,
            batch_size,
            replicas=strategy.num_replicas_in_sync,
            crop=recipe.crop_eval,
            interpolation=recipe.interpolation,
            ignore_exif=recipe.ignore_exif,
            host=context.input_pipeline_id,
            hosts=context.num_input_pipelines,
        )

    return lambda: distributed_dataset(strategy, batches)


def gathered_outputs(
    strategy: tf.distribute.Strategy, model: Callable
) -> Callable[[dict], tuple[np.ndarray, np.ndarray]]:
    """A function from an element of :func:`distributed_batches` to (indices, float32 outputs).

    They are those of all replicas and workers, without padding; all workers must call it. `model`
    is called in inference.
    """

    @tf.function(jit_compile=False)
    def run(batch):
        def replica_fn(batch):
            outputs = tf.cast(model(batch["image"], training=False), tf.float32)
            gather = tf.distribute.get_replica_context().all_gather
            index = tf.cast(batch["index"], tf.int32)
            return gather(index, axis=0), gather(outputs, axis=0)

        gathered = strategy.run(replica_fn, args=(batch,))
        return tuple(strategy.experimental_local_results(value)[0] for value in gathered)

    def gather(batch):
        index, outputs = (value.numpy() for value in run(batch))
        return index[index >= 0], outputs[index >= 0]

    return gather


def _metrics(loss, targets, logits, batch):
    """float32 [3]: sums over the batch's images of correct, top-5 correct, and loss."""
    logits = tf.cast(logits, tf.float32)
    labels = batch["label"]
    labels = labels[:, None] if len(labels.shape) == 1 else labels
    _, best = tf.math.top_k(logits, min(_TOP, logits.shape[-1]))
    hits = tf.reduce_any(best[:, :, None] == labels[:, None], -1)
    rows = [tf.cast(hits[:, 0], tf.float32), tf.cast(tf.reduce_any(hits, -1), tf.float32)]
    rows.append(losses(loss, targets, logits))
    return tf.reduce_sum(tf.stack(rows) * batch["weight"], -1)
