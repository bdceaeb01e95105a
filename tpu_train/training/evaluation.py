"""Exact evaluation: every image counts once, on any number of replicas."""

import tensorflow as tf

from tpu_train.input_pipeline.batches import evaluation_batches


def make_evaluation(strategy, models, source, recipe):
    """A function without arguments that gives ``{name: accuracy}`` of `models`, as shares of 1.

    `models` maps names to classifiers that return logits; all see the same batches, prepared as the
    recipe says. An image of several labels counts as right if the best class is one of them. The
    last batch is padded, and the padding weighs nothing. Traced once, at the first call.
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
            host=context.input_pipeline_id,
            hosts=context.num_input_pipelines,
        )

    @tf.function(jit_compile=False)
    def step(batch):
        def correct(batch):
            labels = batch["label"]
            labels = labels[:, None] if len(labels.shape) == 1 else labels
            hits = []
            for model in models.values():
                best = tf.argmax(model(batch["image"], training=False), -1, output_type=tf.int32)
                hit = tf.reduce_any(best[:, None] == labels, -1)
                hits.append(tf.reduce_sum(tf.cast(hit, tf.float32) * batch["weight"]))
            return tf.stack(hits)

        return strategy.reduce("SUM", strategy.run(correct, args=(batch,)), axis=None)

    def evaluate():
        hits = 0.0
        for batch in strategy.distribute_datasets_from_function(batches):
            hits += step(batch).numpy()
        return {name: float(h) / source.examples for name, h in zip(models, hits)}

    return evaluate
