"""Labels images with a teacher, and writes the selected ones as shards with scores.

The teacher scores all images first, then the images are selected, and their statistics logged,
before any shard is written. An interrupted labeling resumes at the first missing chunk or shard,
and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import tensorflow as tf

from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.datasets.tfrecord import INDEX, read_index
from keras_effnet.evaluation.scoring import progress_lines
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.input_pipeline import shard_folder
from tpu_train.input_pipeline.pseudo_labeled import SPLIT
from tpu_train.input_pipeline.tfrecord_shard import (
    ShardPlan,
    existing_entry,
    file_name,
    write_shard,
)
from tpu_train.input_pipeline.tfrecord_writer import IMAGES_PER_SHARD
from tpu_train.noisy_student.hosts import Hosts
from tpu_train.noisy_student.label_report import LabelReport, statistics, write_report
from tpu_train.noisy_student.score_chunks import (
    distributed_classifier,
    score_all,
    wait_for,
    wait_while,
)
from tpu_train.noisy_student.selection import SelectionRule, select
from tpu_train.remote_files import GFILE
from tpu_train.training.teacher import TeacherFile


def _log(line):
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class LabelingOptions:
    """How :func:`write_pseudo_labels` labels images."""

    rule: SelectionRule = field(default_factory=SelectionRule)
    max_corrupt: int = 10  # images that may be undecodable and are left out
    hosts: Hosts = field(default_factory=Hosts)
    log: Callable[[str], object] = _log
    stop: Callable[[], str] = lambda: ""  # the reason to stop, or ""


@dataclass(frozen=True)
class WrittenLabels:
    """The content of a folder of pseudo-labeled images."""

    folder: str
    images: int  # in the shards
    examples: int  # of an epoch: with repetitions
    was_complete: bool  # before this call


def write_pseudo_labels(
    teacher: TeacherFile,
    images: LabeledImages,
    folder: str | os.PathLike[str],
    strategy: tf.distribute.Strategy,
    options: LabelingOptions = LabelingOptions(),
) -> WrittenLabels:
    """Writes the images that the teacher is confident of, or resumes writing them.

    The folder then has the shards, their index, ``labels.txt`` and ``pseudo_labels.html`` with
    ``pseudo_labels.json``. :func:`tpu_train.input_pipeline.pseudo_labeled.open_pseudo_labels`
    opens it.

    Args:
        teacher: of the classes of the labeled data; it has class names.
        images: without labels.
        folder: new, or of an earlier call with the same arguments.
        strategy: on whose replicas the teacher runs.
        options: selection, hosts and output.

    Raises ``ValueError`` for a folder with other content, a teacher without class names, and
    images of which none, or none of a class, can be used;
    :class:`tpu_train.input_pipeline.tfrecord_shard.PrepareError` for a failing disk; and
    :class:`tpu_train.checkpointing.preemption.StoppedError` after a stop.
    """
    folder, hosts = os.fspath(folder), options.hosts
    if is_labeled(teacher, images, folder, options):
        return _summarize(folder, was_complete=True)
    with shard_folder.claimed(folder) if hosts.count == 1 else contextlib.nullcontext():
        return _write(teacher, images, folder, strategy, options)


def is_labeled(
    teacher: TeacherFile,
    images: LabeledImages,
    folder: str | os.PathLike[str],
    options: LabelingOptions = LabelingOptions(),
) -> bool:
    """Whether :func:`write_pseudo_labels` has finished the folder.

    Raises ``ValueError`` for a folder with other content, and a teacher without class names.
    """
    if teacher.classifier.class_names is None:
        raise ValueError(
            f"{teacher.path} has no class names: write the name of each of its "
            f"{teacher.classifier.classes} outputs, one a line, in their order, into labels.txt "
            "beside it"
        )
    return shard_folder.is_complete(os.fspath(folder), _make_plan(teacher, images, options))


def stoppable(
    options: LabelingOptions, doing: str, show: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    """A `progress` function that raises :class:`StoppedError` after a stop, and calls `show`."""

    def progress(done, total):
        _check_stop(options, doing)
        show(done, total)

    return progress


def _write(teacher, images, folder, strategy, options):
    hosts, classes = options.hosts, teacher.classifier.class_names
    plan = _make_plan(teacher, images, options)
    if not hosts.is_chief:  # the chief removes the shards of another rule
        wait_while(lambda: "this selection" * shard_folder.has_another_rule(folder, plan), hosts)
    partial = shard_folder.begin(folder, plan)
    scores = score_all(
        distributed_classifier(teacher, strategy),
        teacher.activation,
        images,
        partial,
        hosts=hosts,
        max_corrupt=options.max_corrupt,
        progress=stoppable(options, "labeling", progress_lines()),
    )
    labels, confidences = scores.values.argmax(1), scores.values.max(1)
    selection = select(labels, confidences, classes, options.rule)
    report = LabelReport(teacher.path, images, scores, selection, classes, options.rule)
    if hosts.is_chief:
        for line in statistics(report):
            options.log(line)
    chosen = replace(
        images.take(scores.rows[selection.rows]),
        classes=classes,
        known_labels=labels[selection.rows].astype(np.int32),
    )
    layout = _make_layout(folder, chosen, scores.values[selection.rows], selection.copies)
    for number, shard in enumerate(layout):
        _check_stop(options, "labeling")
        if hosts.owns(number) and existing_entry(folder, shard.name) is None:
            write_shard(shard, options.max_corrupt)
            options.log(f"shard {number + 1} of {len(layout)} written and verified")
    if not hosts.is_chief:
        wait_for([os.path.join(folder, INDEX)], hosts)
        return _summarize(folder, was_complete=False)
    wait_for([os.path.join(partial, f"{shard.name}.json") for shard in layout], hosts)
    entries = [existing_entry(folder, shard.name) for shard in layout]
    write_report(folder, report)
    written = sum(len(entry["positions"]) for entry in entries)
    shard_folder.finish(folder, {**plan, "splits": {SPLIT: written}}, entries)
    return _summarize(folder, was_complete=False)


def _check_stop(options, doing):
    reason = options.stop()
    if reason:
        raise StoppedError(f"Stopped while {doing} ({reason}). The same command resumes")


def _make_plan(teacher, images, options):
    """Everything that the bytes of the shards depend on."""
    names = hashlib.sha256()
    for i in range(len(images)):
        names.update(os.fsencode(file_name(images, i)) + b"\n")
    return {
        "classes": list(teacher.classifier.class_names),
        "teacher": teacher.sha256,
        "preprocessing": str(teacher.classifier.image_input),
        "images": names.hexdigest(),
        "rule": asdict(options.rule),
    }


def _make_layout(folder, images, scores, copies):
    """The :class:`ShardPlan` of every shard; records are in a shuffled order."""
    count = max(1, round(len(images) / IMAGES_PER_SHARD))
    order = np.random.default_rng(2).permutation(len(images))
    layout = []
    for n in range(count):
        positions = order[n::count]
        layout.append(
            ShardPlan(
                folder,
                f"{SPLIT}-{n:05}-of-{count:05}",
                SPLIT,
                positions,
                images.take(positions),
                scores[positions],
                copies[positions],
            )
        )
    return layout


def _summarize(folder, *, was_complete):
    entries = read_index(folder, GFILE).of_split(SPLIT)
    return WrittenLabels(
        folder,
        images=sum(len(entry["positions"]) for entry in entries),
        examples=sum(sum(entry["copies"]) for entry in entries),
        was_complete=was_complete,
    )
