"""The teacher's scores of all images, in chunks: a file each, so that labeling can be resumed.

A chunk is always computed in the same batches, so its scores do not depend on interruptions.
Several hosts share the chunks: each computes every n-th. When all of them exist, the chief marks
the scores as complete. They do not change any more, even if images are repaired, so that all hosts,
and later calls, select the same images.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.evaluation.scoring import score_batches
from keras_effnet.image_classifier import ImageClassifier
from tpu_train.input_pipeline.tfrecord_shard import PrepareError, disk_errors
from tpu_train.noisy_student.hosts import Hosts
from tpu_train.remote_files import read_file, write_file
from tpu_train.training.teacher import TeacherFile

CHUNK = 1024  # images
COMPLETE = "scores-complete"
_BATCH = 32  # images of a replica
_POLL_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Scores:
    """The teacher's scores of the images that could be read."""

    rows: np.ndarray  # int64 (images,), of the images in the data set
    values: np.ndarray  # float32 (images, classes), in [0, 1]
    unreadable: tuple[str, ...]  # one message for each image that could not be read


def distributed_classifier(
    teacher: TeacherFile, strategy: tf.distribute.Strategy
) -> ImageClassifier:
    """The teacher as a classifier that computes each batch on all replicas of the strategy."""
    batch = _BATCH * strategy.num_replicas_in_sync

    @tf.function(jit_compile=False)
    def score(pixels):
        def replica_fn(pixels):
            return tf.cast(teacher.model(pixels, training=False), tf.float32)

        return strategy.run(replica_fn, args=(pixels,))

    def scores(images):
        missing = batch - len(images)
        padded = np.concatenate([images, np.repeat(images[:1], missing, 0)]) if missing else images
        padded = padded.astype(np.float32)

        def of_replica(context):
            first = context.replica_id_in_sync_group * _BATCH
            return tf.constant(padded[first : first + _BATCH])

        result = score(strategy.experimental_distribute_values_from_function(of_replica))
        parts = strategy.experimental_local_results(result)
        return np.concatenate([part.numpy() for part in parts])[: len(images)]

    return replace(teacher.classifier, batch=batch, scores=scores)


def score_all(
    classifier: ImageClassifier,
    activation: str,
    images: LabeledImages,
    folder: str,
    *,
    hosts: Hosts,
    max_corrupt: int = 10,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """The :class:`Scores` of all images; chunks that `folder` has are not computed again.

    Args:
        classifier: of the teacher.
        activation: of its outputs.
        images: to score.
        folder: for the chunks; exists. Until the scores are complete, the chief computes those with
            unreadable images again, because the images may have been repaired.
        hosts: that share the chunks.
        max_corrupt: images that may be unreadable in all chunks together.
        progress: called with the number of images done and of all of this host.

    Raises ``ValueError`` for more unreadable images, and :class:`PrepareError` for a disk that
    cannot be written and for a host that does not finish.
    """
    paths = [_path(folder, n) for n in range(-(-len(images) // CHUNK))]
    complete, loaded = os.path.join(folder, COMPLETE), {}
    if not tf.io.gfile.exists(complete):
        if hosts.is_chief:
            loaded = {n: _load(path) for n, path in enumerate(paths) if tf.io.gfile.exists(path)}
        damaged = {n for n, chunk in loaded.items() if len(chunk["unreadable"])}
        missing = {n for n, path in enumerate(paths) if not tf.io.gfile.exists(path)}
        to_score = sorted(damaged | set(filter(hosts.owns, missing)))
        total = sum(min(CHUNK, len(images) - n * CHUNK) for n in to_score)
        done = 0
        for n in to_score:
            part = images.take(np.arange(n * CHUNK, min(len(images), (n + 1) * CHUNK)))

            def show(i, _, done=done):
                progress(done + i, total)

            loaded[n] = _score_chunk(classifier, activation, part, n * CHUNK, max_corrupt, show)
            with disk_errors(folder):
                write_file(paths[n], _npz(loaded[n]))
            done += len(part)
            progress(done, total)
        wait_for(paths if hosts.is_chief else [complete], hosts)
    scores = _join([loaded.get(n) or _load(path) for n, path in enumerate(paths)])
    if hosts.is_chief and not tf.io.gfile.exists(complete):
        _check_unreadable(scores, max_corrupt)
        with disk_errors(folder):
            write_file(complete, b"")
    return scores


def wait_for(paths: list[str], hosts: Hosts) -> None:
    """Waits for files that other hosts write; :class:`PrepareError` if they take too long."""
    missing = list(paths)

    def find_missing():
        missing[:] = [path for path in missing if not tf.io.gfile.exists(path)]
        return f"{len(missing)} files, e.g. {missing[0]}" if missing else ""

    wait_while(find_missing, hosts)


def wait_while(missing: Callable[[], str], hosts: Hosts) -> None:
    """Waits until `missing` returns "", no longer what other hosts have not written.

    Raises :class:`PrepareError` if they take too long.
    """
    start = time.monotonic()
    while what := missing():
        if time.monotonic() - start > hosts.wait_seconds:
            raise PrepareError(
                f"other hosts have not written {what}, in {hosts.wait_seconds:.0f} s: rerun the "
                "same command on all hosts to resume"
            )
        time.sleep(_POLL_SECONDS)


def _path(folder, number):
    return os.path.join(folder, f"scores-{number:05}.npz")


def _score_chunk(classifier, activation, images, first, max_corrupt, progress):
    """The fields of :class:`Scores` of a chunk, as arrays."""
    rows, values, unreadable = [], [], []
    for indices, scores in score_batches(
        classifier, images, unreadable, max_unreadable=max_corrupt, progress=progress
    ):
        if not np.isfinite(scores).all():
            raise ValueError("the teacher returns NaN or Inf: its weights are damaged")
        rows += [first + i for i in indices]
        values.append(np.exp(log_probabilities(scores, activation)).astype(np.float32))
    return {
        "rows": np.array(rows, np.int64),
        "values": np.concatenate(values or [np.zeros((0, classifier.classes), np.float32)]),
        "unreadable": np.array(unreadable, str),
    }


def _npz(chunk):
    buffer = io.BytesIO()
    np.savez(buffer, **chunk)
    return buffer.getvalue()


def _load(path):
    with np.load(io.BytesIO(read_file(path))) as arrays:
        return dict(arrays)


def _join(chunks):
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    unreadable = tuple(columns["unreadable"].tolist())
    return Scores(columns["rows"], columns["values"], unreadable)


def _check_unreadable(scores, max_corrupt):
    if len(scores.unreadable) > max_corrupt:
        raise ValueError(
            f"{len(scores.unreadable)} images cannot be read: {'; '.join(scores.unreadable[:3])}. "
            "Repair or remove them, or raise the limit (--max_corrupt)"
        )
