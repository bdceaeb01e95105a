"""Label files: text, one class name a line, in the order of the model's outputs.

Names may repeat: two of ImageNet's 1,000 classes are "crane". Where a name has to tell its class,
:func:`class_index` rejects a repeated one.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import unicodedata
from collections.abc import Sequence

from keras_effnet.atomic_write import write_files
from keras_effnet.suggestions import unknown_name

_LINE_END = re.compile(r"\r\n|\r|\n")  # not the others of str.splitlines: names may have them


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a label file, without blank lines at its end.

    It is UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it; names may occur twice.
    Raises ``ValueError`` for a file that does not exist, has another encoding, is JSON, or has an
    empty line; ``OSError`` for one that cannot be read.
    """
    path = os.fspath(path)
    if not os.path.lexists(path):
        raise ValueError(
            f"label file {path!r} does not exist; give a text file with one class name per line"
        )
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block, a device not end
        raise ValueError(f"label file {path!r} is not a file; give a text file, one name a line")
    with open(path, "rb") as file:
        return parse_labels(file.read(), path)


def parse_labels(content: bytes, where: str) -> tuple[str, ...]:
    r"""The class names in the bytes of a label file; `where` names it in errors.

    >>> parse_labels(b"cat\ndog\n", "labels.txt")
    ('cat', 'dog')
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"label file {where!r} is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"label file {where!r} has bytes that are no text; save it as UTF-8")
    if text.lstrip()[:1] in ("[", "{") and _is_json(text):
        raise ValueError(f"label file {where!r} is JSON; write one class name per line instead")
    text = unicodedata.normalize("NFC", text)  # as class folders are read: macOS writes others
    names = [line.strip() for line in _LINE_END.split(text)]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        line = names.index("") + 1 if names else 1
        raise ValueError(f"label file {where!r}: line {line} is empty; give one class name a line")
    return tuple(names)


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def class_index(name: str, class_names: Sequence[str]) -> int:
    """The index of the only class of that name.

    Raises ``ValueError`` with the indices if several classes have the name, or none.

    >>> class_index("crane", ["crane", "owl", "crane"])
    Traceback (most recent call last):
    ValueError: 'crane' is the name of the classes 0 and 2: give them different names
    """
    indices = [i for i, known in enumerate(class_names) if known == name]
    if len(indices) > 1:
        raise ValueError(
            f"{name!r} is the name of the classes {' and '.join(map(str, indices))}: give them "
            "different names"
        )
    if not indices:
        raise ValueError(unknown_name("class", name, class_names))
    return indices[0]


def format_labels(class_names: Sequence[str]) -> bytes:
    r"""The bytes of a label file.

    >>> format_labels(["cat", "dog"])
    b'cat\ndog\n'
    """
    return "".join(f"{name}\n" for name in class_names).encode()


def write_labels(path: str | os.PathLike[str], class_names: Sequence[str]) -> None:
    """Writes a label file atomically."""
    write_files({os.fspath(path): format_labels(class_names)})
