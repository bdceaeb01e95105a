"""Which existing files may be overwritten: only those that this package wrote, and no input."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from keras_effnet import atomic_write
from keras_effnet.label_file import read_labels
from keras_effnet.model_card.output_files import card_paths, default_path, is_card

GENERATOR = "effnet-tflite"  # marks the pages of this package
_CARDS = (".card.md", ".card.json")
_KINDS = {  # by ending, the longest of several first
    **dict.fromkeys(_CARDS, "a model card"),
    **{".html": "a report", ".json": "a report", ".labels.txt": "labels"},
}


def check_replaceable(path: str | os.PathLike[str], inputs: Mapping[str, object] = {}) -> str:
    """The absolute path, if a file can be written there and nothing but a file of the same kind,
    written by this package, is lost.

    Args:
        path: ending in .html or .json (a report), .card.md or .card.json (a model card) or
            .labels.txt; any other path is that of a .tflite.
        inputs: {argument: path or None} of the files that are read.

    Raises:
        ValueError: the path cannot be written, is that of an input, or has another file.
    """
    path = atomic_write.check_new(path, inputs)
    if os.path.lexists(path) and not is_own(path):
        raise ValueError(
            f"{path!r} exists and is not {_kind(path)}: it is not overwritten; give another name "
            "or delete it"
        )
    return path


def conversion_files(path: str, *, compared: bool, labels: bool) -> list[str]:
    """The files of a conversion to `path` in the order of writing, the .tflite last."""
    endings = [".json", *([".html"] if compared else []), *([".labels.txt"] if labels else [])]
    cards = card_paths(default_path(path))
    return [*(path + ending for ending in endings), *cards, path]


def _kind(path):
    for ending, kind in _KINDS.items():
        if path.endswith(ending):
            return f"{kind} of effnet-tflite"
    return "a .tflite file"


def is_own(path: str) -> bool:
    """Whether there is a file, and it is of this package, by the ending of its name, or empty."""
    if not os.path.isfile(path):
        return False
    if not os.path.getsize(path):
        return True  # nothing is lost
    if path.endswith(_CARDS):
        return is_card(path)
    if path.endswith(".labels.txt"):
        return _reads(read_labels, path) is not None
    if path.endswith(".json"):
        record = _reads(_read_json, path)
        return isinstance(record, dict) and not {"preset", "report"}.isdisjoint(record)
    with open(path, "rb") as file:
        head = file.read(4096)
    if path.endswith(".html"):
        return f'content="{GENERATOR}"'.encode() in head
    return head[4:8] == b"TFL3"


def _read_json(path):
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)


def _reads(read, path):
    try:
        return read(path)
    except ValueError:
        return None
