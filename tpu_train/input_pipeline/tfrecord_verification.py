"""Verifies TFRecord shards: checksums, and that every image can be decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from keras_effnet.datasets.shards import LabeledRecords, open_shards
from keras_effnet.datasets.tfrecord import INDEX
from tpu_train.input_pipeline.image_source import corrupt, of_encoded
from tpu_train.input_pipeline.tfrecord import make_reader, scan
from tpu_train.remote_files import GFILE, sha256


@dataclass(frozen=True)
class Verification:
    """The result of verifying a folder of shards."""

    images: int
    shards: int
    has_index: bool
    problems: tuple[str, ...]


def verify_shards(folder: str | os.PathLike[str], *, stream: TextIO | None = None) -> Verification:
    """Decodes every image of a folder of shards and verifies every checksum.

    Reads shards with an index and without; `stream` shows the progress (default: standard error).
    Raises ``ValueError`` for a folder without shards, or one that lacks some of them.
    """
    folder = os.fspath(folder)
    dataset = open_shards(folder, GFILE, scan)
    if dataset is None:
        raise ValueError(f"{folder} has no shards (train-00000-of-00008, ...) to verify")
    shards, index = dataset.shards, dataset.index
    entries = {entry["file"]: entry for entry in index.entries} if index else {}
    names = [os.path.basename(path) for paths in shards.values() for path in paths]
    problems = [f"{os.path.join(folder, n)} is missing" for n in sorted(set(entries) - set(names))]
    images = 0
    with tqdm(total=len(names), unit=" shards", desc="check", file=stream) as progress:
        for name in names:
            path = os.path.join(folder, name)
            if index and name not in entries:
                problems.append(f"{path} is not in {INDEX}")
            elif index and sha256(path) != entries[name]["sha256"]:
                problems.append(f"{path} was changed after it was written: its SHA-256 differs")
            try:
                labeled = scan([path])
            except ValueError as error:
                problems.append(str(error))
            else:
                images += len(labeled.records)
                problems += corrupt_images(labeled)
            progress.update()
    if not problems:
        dataset.open(*dataset.splits)  # raises if labels and the label file do not match
    return Verification(images, len(names), index is not None, tuple(problems))


def corrupt_images(labeled: LabeledRecords) -> list[str]:
    """One line for each image that cannot be decoded."""
    records = labeled.records
    source = of_encoded("", (), labeled.counts, make_reader(records), records.where)
    return [f"{source.where(i)} cannot be decoded: {error}" for i, error in corrupt(source)]
