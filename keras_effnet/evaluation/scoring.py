"""Runs a classifier over the images of a data set, each exactly once, with bounded memory."""

from __future__ import annotations

import collections
import concurrent.futures
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.outcomes import OutcomeRecorder, Outcomes, ScoreKind

_LINE_SECONDS = 10  # between two progress lines


@dataclass(frozen=True, eq=False)
class Scored:
    """Outcomes of the images that could be read."""

    outcomes: Outcomes
    kind: ScoreKind
    indices: np.ndarray  # of the rows of `outcomes`, in the data set
    unreadable: tuple[str, ...]  # one message each, which names the image
    seconds: float


def score_images(
    classifier,
    images,
    outputs: Sequence[int],
    *,
    max_unreadable: int = 10,
    ignore_exif: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """The :class:`Scored` images of a data set.

    Images are read and prepared by threads, at most two batches ahead.

    Args:
        classifier: a :class:`keras_effnet.image_classifier.ImageClassifier`.
        images: a :class:`keras_effnet.datasets.labeled_images.LabeledImages`.
        outputs: the classifier's output of every class of the data.
        max_unreadable: images that may fail to be read; they are left out and named.
        ignore_exif: leave photos as they are stored.
        progress: called with the number of images done and of all.

    Raises ``ValueError`` for more unreadable images, for images without labels, and for a model
    that returns NaN or Inf.
    """
    start = time.monotonic()
    labels = _labels_of(images, outputs)
    kept, unreadable, recorder = [], [], None
    for rows, scores in score_batches(
        classifier,
        images,
        unreadable,
        max_unreadable=max_unreadable,
        ignore_exif=ignore_exif,
        progress=progress,
    ):
        recorder = recorder or OutcomeRecorder(classifier.kind_of(scores))
        recorder.add(scores, labels[rows])
        kept.extend(rows)
    if recorder is None:
        raise ValueError(f"no image can be read: {'; '.join(unreadable[:3])}")
    return Scored(
        outcomes=recorder.outcomes(),
        kind=recorder.kind,
        indices=np.array(kept),
        unreadable=tuple(unreadable),
        seconds=time.monotonic() - start,
    )


def score_batches(
    classifier,
    images,
    unreadable: list[str],
    *,
    max_unreadable: int = 10,
    ignore_exif: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields (indices of the images, scores (images, outputs)) of every batch, in order.

    The arguments are those of :func:`score_images`; the message of every image that cannot be read
    is appended to `unreadable`. The images need no labels.
    """
    pixels, rows = [], []
    for i, prepared, error in _prepared(classifier, images, ignore_exif):
        if error is not None:
            unreadable.append(error)
            if len(unreadable) > max_unreadable:
                raise ValueError(
                    f"more than {max_unreadable} images cannot be read: {'; '.join(unreadable[:3])}"
                    ". Repair or remove them, or raise the limit (--max_corrupt)"
                )
        else:
            pixels.append(prepared)
            rows.append(i)
        if len(rows) == classifier.batch:
            yield rows, classifier.scores(np.stack(pixels))
            pixels, rows = [], []
        progress(i + 1, len(images))
    if rows:
        yield rows, classifier.scores(np.stack(pixels))


def progress_lines(stream=None) -> Callable[[int, int], None]:
    """A `progress` function that shows images, images/s and the time left on `stream` (standard
    error): a bar on a terminal, else a line every ten seconds.
    """
    stream = sys.stderr if stream is None else stream
    start = last = time.monotonic()
    bar = None

    def show(done, total):
        nonlocal bar, last
        if stream.isatty():
            if bar is None:
                from tqdm import tqdm

                bar = tqdm(total=total, unit="img", file=stream, leave=False)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
            return
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last, rate = now, done / (now - start)
            print(
                f"{done:,}/{total:,} images, {rate:.0f} images/s, "
                f"{(total - done) / rate:.0f} s left",
                file=stream,
                flush=True,
            )

    return show


def _labels_of(images, outputs):
    """The labels as outputs of the classifier; ``ValueError`` for images without labels."""
    if not len(images):
        raise ValueError(f"{images.name} has no images")
    labels = images.labels
    if labels is None:
        raise ValueError(
            f"{images.name} has no labels: put the images of each class into a folder with its "
            "name, or list them in a CSV file"
        )
    unlabeled = np.flatnonzero(np.atleast_2d(labels.T).max(0) < 0)
    if len(unlabeled):
        raise ValueError(
            f"{images.name}: {len(unlabeled):,} images have no label, e.g. "
            f"{images.where(int(unlabeled[0]))}: give each at least one"
        )
    return np.append(np.asarray(outputs), -1)[labels]  # -1 is padding


def _prepared(classifier, images, ignore_exif) -> Iterator[tuple]:
    """Yields (index, prepared image or None, error or None), in order."""

    def prepare(i):
        try:
            return classifier.image_input.prepare(images.pixels(i, ignore_exif=ignore_exif)), None
        except (OSError, ValueError) as error:
            return None, str(error)

    threads = max(2, min(8, os.cpu_count() or 1))
    waiting = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for i in range(len(images)):
            waiting.append(pool.submit(prepare, i))
            if len(waiting) > 2 * classifier.batch:
                done = i - len(waiting) + 1
                yield (done, *waiting.popleft().result())
        for i in range(len(images) - len(waiting), len(images)):
            yield (i, *waiting.popleft().result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
