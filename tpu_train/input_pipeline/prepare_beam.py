"""Writes shards with Apache Beam, on any runner. The only importer of apache_beam."""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Sequence

import tensorflow as tf

from tpu_train.input_pipeline.tfrecord_shard import PARTIAL, PrepareError, ShardPlan, write_shard
from tpu_train.remote_files import read_file, write_file


def check_beam() -> None:
    """Raises ``ValueError`` if Apache Beam is not installed."""
    if importlib.util.find_spec("apache_beam") is None:
        raise ValueError(
            "--runner needs Apache Beam: pip install apache-beam, in another environment than that "
            "of training if their packages conflict"
        )


def write_with_beam(
    plans: Sequence[ShardPlan],
    max_corrupt: int,
    skipped: Sequence[str],
    runner: str,
    arguments: Sequence[str],
) -> None:
    """Writes every shard and its index entry as `write_shard` does, on a runner of Apache Beam.

    `runner` and `arguments` are those of Beam (``DataflowRunner``, ``--region=...``). The plans are
    written to the output folder, which all workers must reach, since a pipeline holds little data.
    Raises :class:`PrepareError` if the pipeline fails.
    """
    import apache_beam as beam  # here: large and rarely needed
    from apache_beam.options.pipeline_options import PipelineOptions

    paths = [os.path.join(plan.folder, PARTIAL, f"{plan.name}.plan") for plan in plans]
    for path, plan in zip(paths, plans):
        write_file(path, pickle.dumps(plan))
    options = PipelineOptions([f"--runner={runner}", *arguments], save_main_session=False)
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Plans" >> beam.Create(paths)
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.Map(_write_planned, max_corrupt, list(skipped))
            )
    except Exception as error:  # runners raise many types, around that of the worker
        raise PrepareError(
            f"the Beam pipeline failed: {error}. Rerun the same command to resume"
        ) from error
    for path in paths:
        tf.io.gfile.remove(path)


def _write_planned(path, max_corrupt, skipped):
    plan = pickle.loads(read_file(path))
    write_shard(plan, max_corrupt, skipped)
    return plan.name
