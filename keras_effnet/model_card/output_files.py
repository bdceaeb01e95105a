"""The two files of a card: Markdown and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from keras_effnet.atomic_write import check_new, write_files
from keras_effnet.model_card.card import GENERATOR
from keras_effnet.model_card.markdown import MARK, render_markdown

RUN_CARD = "model_card.md"  # in the work directory of a training
_TFLITE_ENDING = ".card.md"


def default_path(model: str) -> str:
    """The card of a model, where training and conversion write it, too.

    >>> default_path("run1/model.keras"), default_path("my.tflite")
    ('run1/model_card.md', 'my.tflite.card.md')
    """
    if model.endswith(".tflite"):
        return model + _TFLITE_ENDING
    return os.path.join(os.path.dirname(model), RUN_CARD)


def card_paths(path: str) -> tuple[str, str]:
    """The Markdown at `path`, and the JSON beside it.

    >>> card_paths("out/README.md")
    ('out/README.md', 'out/README.json')
    """
    return path, os.path.splitext(path)[0] + ".json"


def render_files(card: Mapping, path: str) -> dict[str, str]:
    """{path: content} of a card whose Markdown is at `path`."""
    markdown, record = card_paths(path)
    return {
        record: json.dumps(card, indent=1) + "\n",
        markdown: render_markdown(card),
    }


def write_card(card: Mapping, path: str) -> list[str]:
    """Writes a card's JSON and its Markdown, both or none; returns their paths."""
    files = render_files(card, path)
    write_files(files)
    return list(files)


def check_card(path: str, inputs: Mapping[str, object]) -> None:
    """Raises ``ValueError`` if `path` cannot be that of a card: another ending than ``.md``, an
    input, or a file beside which something would be lost.
    """
    if not path.endswith(".md"):
        raise ValueError(f"--out={path} must end in .md; the JSON is written beside it")
    for each in card_paths(path):
        check_new(each, inputs)
        if os.path.lexists(each) and not is_card(each):
            raise ValueError(
                f"{each!r} exists and was not written by {GENERATOR}: it is not overwritten; give "
                "another --out or delete it"
            )


def is_card(path: str) -> bool:
    """Whether a file was written by this module, or is empty."""
    try:
        with open(path, encoding="utf-8") as file:
            content = file.read()
        if not content or path.endswith(".md"):
            return not content or MARK in content
        return json.loads(content).get("generator") == GENERATOR
    except (OSError, ValueError, AttributeError):
        return False
