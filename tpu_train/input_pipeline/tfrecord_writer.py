"""Writes labeled images as TFRecord shards in ImageNet's form, with an index and checksums.

Every image is decoded before it is written, and again from the written file. An interrupted run
resumes at the first incomplete shard and ends with the same bytes: which image is in which record
depends only on the input and the seed. The index is written last.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from tqdm import tqdm

from keras_effnet.datasets.tfrecord import Index, read_index
from keras_effnet.datasets.training_data import open_training_data
from keras_effnet.label_file import format_labels, parse_labels
from tpu_train.input_pipeline import shard_folder
from tpu_train.input_pipeline.data_loading import open_path
from tpu_train.input_pipeline.prepare_beam import check_beam
from tpu_train.input_pipeline.prepare_workers import write_in_processes, write_on_runner
from tpu_train.input_pipeline.tfrecord_shard import ShardPlan, existing_entry, file_name
from tpu_train.remote_files import GFILE

IMAGES_PER_SHARD = 1250  # ImageNet's: 1,281,167 images in 1,024 shards


@dataclass(frozen=True)
class WriterOptions:
    """How :func:`write_shards` divides the images into splits and shards."""

    shard_count: int = 0  # of train; 0: one for every 1,250 images
    minival: float = 0  # images taken out of train: a fraction below 1, or a number
    holdout: float = 0.2  # fraction of each class for validation, if the data has none
    seed: int = 0
    max_corrupt: int = 10  # images that may be undecodable and are skipped
    on_duplicates: str = "warn"  # or "error", "ignore": see open_training_data
    workers: int = 1  # processes that write shards
    runner: str = ""  # of Apache Beam, which then writes the shards
    beam_arguments: tuple[str, ...] = ()  # of that runner


@dataclass(frozen=True)
class WrittenShards:
    """The content of a folder of shards, and the part of it that this run wrote."""

    folder: str
    images: dict[str, int]  # by split
    shards: dict[str, int]  # number of shards by split
    sizes: dict[str, int]  # bytes by split
    classes: tuple[str, ...]
    skipped: tuple[str, ...]  # images that could not be decoded
    notes: tuple[str, ...]  # what else of the data is not used
    written: int  # images of this run; the other shards existed already
    seconds: float


def write_shards(
    data: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    options: WriterOptions = WriterOptions(),
    *,
    stream: TextIO | None = None,
) -> WrittenShards:
    """Writes the images that `open_data` reads as shards into `folder`, or resumes writing them.

    The splits are ``train``, ``validation`` (the evaluation set of the data, or the held-out
    fraction) and ``minival``. Records are in a shuffled order, for readers that cannot shuffle; the
    index restores the order of the input, so training on the shards is bit-identical to training on
    `data` (without a minival). `stream` shows the progress (default: standard error).

    Raises ``ValueError`` for input that cannot be prepared, a `folder` with other content, or one
    that another process writes to, and :class:`PrepareError` if the disk is full or returns other
    bytes than were written.
    """
    folder = os.fspath(folder)
    began = time.monotonic()
    if options.workers < 1:
        raise ValueError(f"workers must be at least 1, got {options.workers}")
    if options.runner and options.workers > 1:
        raise ValueError("give --workers or --runner: a runner has its own workers")
    if options.runner:
        check_beam()
    training, evaluation = open_training_data(
        data,
        holdout=options.holdout,
        seed=options.seed,
        max_corrupt=options.max_corrupt,
        on_duplicates=options.on_duplicates,
        dataset=open_path(data),
    )
    splits = _make_splits(training, evaluation, options)
    layout = _make_layout(folder, splits, options)
    plan = _make_plan(splits, layout, options.seed)
    skipped = list(dict.fromkeys([*training.skipped, *evaluation.skipped]))
    notes = tuple(dict.fromkeys([*training.notes, *evaluation.notes]))
    if shard_folder.is_complete(folder, plan):
        index = read_index(folder, GFILE)
        return _summarize(folder, index, skipped, notes, 0, time.monotonic() - began)
    with shard_folder.claimed(folder):
        shard_folder.begin(folder, plan)
        entries, written = _write_all(layout, skipped, options, stream)
        shard_folder.finish(folder, plan, entries)
    seconds = time.monotonic() - began
    return _summarize(folder, read_index(folder, GFILE), skipped, notes, written, seconds)


def _write_all(layout, skipped, options, stream):
    """(index entries of all shards in order, number of images written now)."""
    existing = {plan.name: existing_entry(plan.folder, plan.name) for plan in layout}
    entries = {name: entry for name, entry in existing.items() if entry is not None}
    missing = [plan for plan in layout if plan.name not in entries]
    total, written = sum(len(plan.positions) for plan in layout), 0
    with tqdm(
        total=total, unit=" images", unit_scale=True, desc="prepare", file=stream
    ) as progress:
        progress.update(total - sum(len(plan.positions) for plan in missing))
        write = write_on_runner if options.runner else write_in_processes
        for entry in write(missing, options, skipped, entries, progress):
            entries[entry["file"]] = entry
            written += len(entry["positions"])
    return [entries[plan.name] for plan in layout], written


def summary(result: WrittenShards) -> str:
    """A description of the written shards, of several lines."""
    lines = [f"{result.folder}: {len(result.classes)} classes"]
    for split, images in result.images.items():
        lines.append(
            f"  {split:<12}{images:>12,} images{result.shards[split]:>7,} shards"
            f"{result.sizes[split] / 1e6:>12,.1f} MB"
        )
    for name in result.skipped:
        lines.append(f"  skipped, cannot be decoded: {name}")
    lines += [f"  {note}" for note in result.notes]
    if result.written:
        lines.append(
            f"{result.written:,} images written and verified in {result.seconds:.0f} s "
            f"({result.written / result.seconds:,.0f} images/s)"
        )
    else:
        lines.append("The shards were complete already; nothing was written")
    lines.append(f"Train on them: effnet-train --data={result.folder} --workdir=run1")
    return "\n".join(lines)


def _make_splits(training, evaluation, options):
    """{split: source}; the minival is drawn from the training images."""
    names = format_labels(training.classes)
    try:
        if parse_labels(names, training.name) != training.classes:
            raise ValueError("class names must be single lines without surrounding spaces")
    except ValueError as error:
        raise ValueError(
            f"{training.name} has class names that a label file cannot hold: {error}"
        ) from error
    minival, examples = options.minival, len(training)
    held_out = {"validation": evaluation} if len(evaluation) else {}
    if not minival:
        return {"train": training, **held_out}
    count = round(minival * examples) if minival < 1 else int(minival)
    if minival < 0 or (minival >= 1 and count != minival) or not 0 < count < examples:
        raise ValueError(
            f"minival {minival} of {examples:,} training images: give a fraction below 1 or a "
            "number of images that leaves some for training"
        )
    shuffled = np.random.default_rng([options.seed, 1]).permutation(examples)
    return {
        "train": training.take(np.sort(shuffled[count:])),
        "minival": training.take(np.sort(shuffled[:count])),
        **held_out,
    }


def _make_layout(folder, splits, options):
    """The :class:`ShardPlan` of every file."""
    examples = len(splits["train"])
    if not 0 <= options.shard_count <= examples:
        raise ValueError(
            f"{options.shard_count} shards for {examples:,} training images: give 1 to {examples}, "
            f"or 0 for one every {IMAGES_PER_SHARD:,} images"
        )
    per_shard = examples / options.shard_count if options.shard_count else IMAGES_PER_SHARD
    layout = []
    for number, (split, source) in enumerate(splits.items()):
        count = max(1, round(len(source) / per_shard))
        order = np.random.default_rng([options.seed, 2, number]).permutation(len(source))
        for n in range(count):
            name, positions = f"{split}-{n:05}-of-{count:05}", order[n::count]
            layout.append(ShardPlan(folder, name, split, positions, source.take(positions)))
    return layout


def _make_plan(splits, layout, seed):
    """Everything that the bytes of the shards depend on: the first line of the index."""
    images = hashlib.sha256()
    for source in splits.values():
        images.update(source.labels.tobytes())
        for i in range(len(source)):
            images.update(file_name(source, i).encode() + b"\n")
    return {
        "splits": {split: len(source) for split, source in splits.items()},
        "shards": {split: sum(shard.split == split for shard in layout) for split in splits},
        "classes": list(splits["train"].classes),
        "seed": seed,
        "images": images.hexdigest(),
    }


def _summarize(folder, index: Index, skipped, notes, written, seconds):
    entries = {split: index.of_split(split) for split in index.header["splits"]}
    return WrittenShards(
        folder,
        {split: sum(len(e["positions"]) for e in some) for split, some in entries.items()},
        {split: len(some) for split, some in entries.items()},
        {split: sum(e["bytes"] for e in some) for split, some in entries.items()},
        tuple(index.header["classes"]),
        tuple(skipped + [name for e in index.entries for name in e["skipped"]]),
        notes,
        written,
        seconds,
    )
