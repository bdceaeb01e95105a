"""The output folder of a command that writes shards: new, incomplete or complete.

The plan of an output is everything that its bytes depend on. An incomplete output has it in a
hidden folder, a complete one in the first line of the index, which is written last. An incomplete
output may be resumed with another "rule", of which only the shards depend: they are written again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from keras_effnet.datasets.tfrecord import INDEX, LABELS, PARTIAL, read_index
from keras_effnet.label_file import format_labels
from tpu_train.folder_lock import locked
from tpu_train.input_pipeline.tfrecord_shard import disk_errors
from tpu_train.recorded_settings import differences
from tpu_train.remote_files import GFILE, read_file, write_file

_PLAN, _RULE = "plan.json", "rule"


@contextlib.contextmanager
def claimed(folder: str) -> Iterator[None]:
    """Creates a folder, and keeps others of this machine from writing to it within the block.

    Raises ``ValueError`` if another process has claimed it.
    """
    tf.io.gfile.makedirs(folder)
    with locked(folder):
        yield


def is_complete(folder: str, plan: Mapping) -> bool:
    """Whether the folder has exactly these shards; ``ValueError`` if it has other content."""
    if not tf.io.gfile.isdir(folder):
        return False
    names = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    partial = os.path.join(folder, PARTIAL)
    if INDEX in names:
        differing = _differences(read_index(folder, GFILE).header, plan)
        if differing:
            raise ValueError(
                f"{folder} has other data, or the same data with other flags ({differing}): choose "
                "another folder"
            )
        if PARTIAL in names:  # interrupted between the last two steps
            tf.io.gfile.rmtree(partial)
        return True
    plan_path = os.path.join(partial, _PLAN)
    if tf.io.gfile.exists(plan_path):
        fixed = {name: value for name, value in plan.items() if name != _RULE}
        differing = _differences(json.loads(read_file(plan_path)), fixed)
        if differing:
            raise ValueError(
                f"{folder} has incomplete shards of other data, or of the same data with other "
                f"flags ({differing}): resume with the original flags, delete it, or choose "
                "another folder"
            )
    elif names - {PARTIAL}:
        raise ValueError(f"{folder} is not empty: choose another folder")
    return False


def has_another_rule(folder: str, plan: Mapping) -> bool:
    """Whether the folder is an incomplete output that was begun with another rule."""
    path = os.path.join(folder, PARTIAL, _PLAN)
    return tf.io.gfile.exists(path) and bool(_differences(json.loads(read_file(path)), plan))


def begin(folder: str, plan: Mapping) -> str:
    """Marks the folder as an incomplete output; the path of its hidden folder.

    Of several hosts, only one may do so while it :func:`has_another_rule`.
    """
    partial = os.path.join(folder, PARTIAL)
    tf.io.gfile.makedirs(partial)
    plan_path = os.path.join(partial, _PLAN)
    if has_another_rule(folder, plan):
        for parent in (partial, folder):  # the shards that another rule has selected
            for name in tf.io.gfile.listdir(parent):
                if "-of-" in name:
                    tf.io.gfile.remove(os.path.join(parent, name))
    with disk_errors(folder):
        write_file(plan_path, json.dumps(plan).encode())
        write_file(os.path.join(folder, LABELS), format_labels(plan["classes"]))
    return partial


def finish(folder: str, header: Mapping, entries: Sequence[Mapping]) -> None:
    """Writes the index, whose first line is the header, and removes the hidden folder."""
    lines = [json.dumps(line) for line in (header, *entries)]
    with disk_errors(folder):
        write_file(os.path.join(folder, INDEX), "".join(f"{line}\n" for line in lines).encode())
    tf.io.gfile.rmtree(os.path.join(folder, PARTIAL))


def _differences(recorded, plan):
    """Those of two plans, and of the flags of their rules."""
    return differences(
        *({**entries, **entries.get(_RULE, {}), _RULE: None} for entries in (recorded, plan))
    )
