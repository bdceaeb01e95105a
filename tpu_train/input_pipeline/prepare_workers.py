"""Writes shards in this process, in several processes of this machine, or with Apache Beam."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from keras_effnet.datasets.undecodable import too_many_undecodable
from tpu_train.input_pipeline.prepare_beam import write_with_beam
from tpu_train.input_pipeline.tfrecord_shard import (
    PrepareError,
    ShardPlan,
    existing_entry,
    write_shard,
)


def write_in_processes(
    plans: Sequence[ShardPlan], options, skipped: list[str], entries: Mapping[str, dict], progress
) -> Iterator[dict]:
    """Yields the index entry of each shard when it is written, by ``options.workers`` processes.

    `skipped` has the images left out so far, `entries` those of shards that exist already. Raises
    ``ValueError`` for more than ``options.max_corrupt`` images that cannot be decoded, and
    :class:`PrepareError` for a failing disk, or a process that ended.
    """
    skipped = _all_skipped(skipped, entries)
    if options.workers == 1 or len(plans) < 2:
        for plan in plans:
            entry = write_shard(plan, options.max_corrupt, skipped, progress.update)
            skipped += entry["skipped"]
            yield entry
        return
    workers = min(options.workers, len(plans))
    threads = max(1, (os.cpu_count() or 1) // workers)
    with concurrent.futures.ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),  # TensorFlow does not survive a fork
        _start_worker,
        (os.getpid(), threads),
    ) as pool:
        futures = [pool.submit(write_shard, plan, options.max_corrupt, skipped) for plan in plans]
        try:
            for future in concurrent.futures.as_completed(futures):
                entry = future.result()
                yield _counted(entry, skipped, options.max_corrupt, progress)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise PrepareError(
                "a worker process ended, perhaps because memory is full: give fewer --workers, "
                "then rerun the same command to resume"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def write_on_runner(
    plans: Sequence[ShardPlan], options, skipped: list[str], entries: Mapping[str, dict], progress
) -> Iterator[dict]:
    """As :func:`write_in_processes`, with the Apache Beam runner ``options.runner``."""
    skipped = _all_skipped(skipped, entries)
    write_with_beam(plans, options.max_corrupt, skipped, options.runner, options.beam_arguments)
    for plan in plans:
        entry = existing_entry(plan.folder, plan.name)
        if entry is None:
            raise PrepareError(f"{plan.name} was not written: rerun the same command to resume")
        yield _counted(entry, skipped, options.max_corrupt, progress)


def _all_skipped(skipped, entries):
    return [*skipped, *(name for entry in entries.values() for name in entry["skipped"])]


def _counted(entry, skipped, max_corrupt, progress):
    """The entry of a finished shard; its images are added to `skipped` and to the progress."""
    skipped += entry["skipped"]
    if len(skipped) > max_corrupt:
        raise too_many_undecodable(max_corrupt, skipped, f"counting those of {entry['file']}")
    progress.update(len(entry["positions"]) + len(entry["skipped"]))
    return entry


def _start_worker(parent, threads):
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    """Ends this process when its parent was killed: nobody waits for its shard."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
