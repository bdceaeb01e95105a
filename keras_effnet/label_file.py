"""Label files: UTF-8 text, one class name a line, in the order of the model's outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keras_effnet.atomic_write import write_files


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a label file, without blank lines at its end.

    A byte order mark is accepted. Raises ``ValueError`` for a file that is not UTF-8, an empty
    line, or a name that occurs twice; ``OSError`` for one that cannot be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        return parse_labels(file.read(), path)


def parse_labels(content: bytes, where: str) -> tuple[str, ...]:
    r"""The class names in the bytes of a label file; `where` names it in errors.

    >>> parse_labels(b"cat\ndog\n", "labels.txt")
    ('cat', 'dog')
    """
    try:
        names = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"label file {where!r} is not UTF-8 text; save it as UTF-8") from error
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        line = names.index("") + 1 if names else 1
        raise ValueError(f"label file {where!r}: line {line} is empty; give one class name a line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"label file {where!r} has {twice[0]!r} twice; class names must differ")
    return tuple(names)


def format_labels(class_names: Sequence[str]) -> bytes:
    r"""The bytes of a label file.

    >>> format_labels(["cat", "dog"])
    b'cat\ndog\n'
    """
    return "".join(f"{name}\n" for name in class_names).encode()


def write_labels(path: str | os.PathLike[str], class_names: Sequence[str]) -> None:
    """Writes a label file atomically."""
    write_files({os.fspath(path): format_labels(class_names)})
