"""Manifests: CSV, JSON and JSON lines files that name images, their labels and their splits.

docs/data.md has the table of columns, separators and encodings.
"""

from __future__ import annotations

import codecs
import collections
import concurrent.futures
import csv
import io
import json
import os
import re
import unicodedata
import urllib.parse
import urllib.request
from dataclasses import dataclass

from keras_effnet.datasets.file_probe import probe_files
from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.labeled_images import (
    ImageFiles,
    LabeledImages,
    numbered_classes,
    pad_labels,
)
from keras_effnet.datasets.splits import ALL, TEST, TRAINING, VALIDATION, some, split_of
from keras_effnet.image_decoding import IMAGE_ENDINGS

CSV_ENDINGS, JSON_ENDINGS, LINES_ENDINGS = (".csv", ".tsv"), (".json",), (".jsonl", ".ndjson")
ENDINGS = CSV_ENDINGS + JSON_ENDINGS + LINES_ENDINGS
# As fastai names it: true for validation images, false for training images.
_IS_VALIDATION = ("is_valid", "is_val", "is_validation")
# Names of the columns or keys; the first of a line is used if there are several of it.
COLUMNS = {
    "image": (
        "image",
        "path",
        "file",
        "filename",
        "file_name",
        "image_path",
        "file_path",
        "filepath",
    ),
    "label": ("label", "labels", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset", "partition", *_IS_VALIDATION),
}
_COLUMNS = "`image` (a path), `label` and optionally `split`"
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_UNNAMED = re.compile(r"(?:unnamed: \d+)?")  # columns of row numbers, as pandas writes them
_NUMBER = re.compile(r"(\d+)(?:\.0+)?")  # pandas and Excel write class numbers as 3.0, too


@dataclass(frozen=True)
class Row:
    """An image of a manifest: its path as written there, its class numbers, its split."""

    path: str
    labels: tuple[int, ...]
    split: str | None  # "train", "validation" or "test"; None in a manifest without splits

    @property
    def is_evaluation(self) -> bool:
        """Whether it is an image of the validation or test split."""
        return self.split in (VALIDATION, TEST)


@dataclass(frozen=True, eq=False)
class ManifestDataset:
    """The images of a manifest."""

    path: str
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]  # those of its rows; only ALL without a split column
    files: FileSystem = LOCAL
    notes: tuple[str, ...] = ()  # what of the manifest is not used

    def open(self, *splits: str) -> list[LabeledImages]:
        """The images of splits; ``ValueError`` for files that do not exist."""
        folder = os.path.dirname(self.path)
        chosen = [[r for r in self.rows if split in (r.split, ALL)] for split in splits]
        paths = [
            tuple(r.path if "://" in r.path else os.path.join(folder, r.path) for r in rows)
            for rows in chosen
        ]
        self._check_exist([path for some in paths for path in some])
        most = max(len(row.labels) for row in self.rows)
        return [
            LabeledImages(
                self.path if split == ALL else f"{self.path} {split}",
                self.classes,
                ImageFiles(
                    some,
                    tuple(row.path for row in rows),
                    self.files,
                    tuple(probe_files(some, self.files)),
                ),
                pad_labels([row.labels for row in rows], most),
                self.notes,
            )
            for split, rows, some in zip(splits, chosen, paths)
        ]

    def _is_file(self, path):
        return self.files.exists(path) and self.files.isfile(path)

    def _check_exist(self, paths):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            exist = list(pool.map(self._is_file, paths))
        missing = [path for path, exists in zip(paths, exist) if not exists]
        if missing:
            raise ValueError(
                f"{self.path} names {len(missing)} files that do not exist: "
                f"{', '.join(missing[:3])}{self._missing_hint(missing[0])}"
            )

    def _missing_hint(self, path):
        if "://" in path:
            return "; URLs are not downloaded, and gs:// is read in training only: download them"
        relative = os.path.relpath(path, os.path.dirname(self.path) or ".")
        if self.files.exists(relative):
            return (
                "; relative paths start in the folder of the manifest, and these exist in the "
                "current folder: move the manifest there"
            )
        endings = (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))
        endings = [ending for ending in endings if self.files.exists(path + ending)]
        return f"; {path}{endings[0]} exists: add the endings" if endings else ""


def open_manifest(path: str, files: FileSystem = LOCAL) -> ManifestDataset:
    """The :class:`ManifestDataset` of a file; ``ValueError`` as :func:`read_manifest` raises."""
    rows, classes, has_split, unused = read_manifest(path, files)
    splits = tuple(dict.fromkeys(row.split for row in rows)) if has_split else (ALL,)
    notes = (f"columns that are not used: {some(unused)}",) if unused else ()
    return ManifestDataset(path, tuple(rows), tuple(classes), splits, files, notes)


def read_manifest(
    path: str, files: FileSystem = LOCAL
) -> tuple[list[Row], list[str], bool, list[str]]:
    """(rows, classes, whether it has splits, names of the columns that are not used) of a manifest,
    in which every image is unique.

    A row has an ``image`` (its path, relative to the manifest), a ``label`` and optionally a
    ``split`` (any usual name of train, validation and test), or ``is_valid`` (true or false);
    ``COLUMNS`` has other names for them.
    The columns of CSV files are separated by commas, semicolons or tabs, several labels of an image
    by ``|``; in JSON they are a list. Labels are names, or class numbers from 0. The encoding is
    UTF-8 or UTF-16. Raises ``ValueError`` that names the bad row.
    """
    text = _decode_text(path, files.read(path))
    is_csv = path.lower().endswith(CSV_ENDINGS)
    try:
        table, unused = _read_csv(path, text) if is_csv else _read_json(path, text)
    except csv.Error as error:
        raise ValueError(
            f"{path} is not valid CSV ({error}): is a double quote missing, or one too many?"
        ) from error
    if not table:
        raise ValueError(f"{path} has no rows: it needs {_COLUMNS}, one row per image")
    has_split = any(split is not None for _, _, split, _ in table)
    classes, numbers = _number_classes(path, table)
    rows = [
        Row(
            image,
            tuple(sorted({numbers[label] for label in labels})),
            _split(split, where) if has_split else None,
        )
        for image, labels, split, where in table
    ]
    _check_splits(path, rows, has_split)
    unused = [name for name in unused if not _UNNAMED.fullmatch(name)]
    return rows, classes, has_split, unused


def _decode_text(path, content):
    """The text of a file; Excel and Notepad begin it with a byte order mark."""
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content[:2]:  # UTF-16 without a mark
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}): save it as UTF-8; in "
            "Excel choose `CSV UTF-8`"
        ) from error


def _read_csv(path, text):
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.\r?", first, re.IGNORECASE):  # of Excel
        text, first = rest, rest.partition("\n")[0]
    # Excel writes the delimiter of the system's language.
    delimiter = max(",;\t", key=first.count)
    lines = io.StringIO(text, newline="")
    table = csv.DictReader(lines, skipinitialspace=True, delimiter=delimiter)
    table.fieldnames = [(name or "").strip().lower() for name in table.fieldnames or []]
    columns = _find_columns(table.fieldnames)
    missing = [c for c in ("image", "label") if c not in columns]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(filter(None, table.fieldnames)) or 'none'} and "
            f"lacks {' and '.join(missing)}: its first line must name {_COLUMNS}"
        )
    for name in columns.values():
        if table.fieldnames.count(name) > 1:
            raise ValueError(f"{path} has several columns {name!r}: rename those that are not used")
    rows = []
    for row in table:
        where = f"{path} line {table.line_num}"
        if any(cell.strip() for cell in row.pop(None, ())):
            raise ValueError(
                f"{where} has more cells than the first line: put a cell that contains "
                f"{delimiter!r} in double quotes"
            )
        if not any(row.values()):  # Excel writes the delimiters of empty rows
            continue
        cells = {column: row[name] for column, name in columns.items()}
        labels = (cells["label"] or "").split("|")
        split = _split_text(columns.get("split"), cells.get("split"), where)
        rows.append(_checked_row(where, cells["image"], labels, split))
    unused = [name for name in table.fieldnames if name not in columns.values()]
    return _with_numbers(path, rows), unused


def _with_numbers(path, rows):
    """The rows; labels are numbers if all of them are, and not text."""
    labels = {label for _, labels, _, _ in rows for label in labels}
    if not all(map(_is_number, labels)):
        return rows
    numbers = {label: _NUMBER.fullmatch(label) for label in labels}
    for label in sorted(labels):
        if numbers[label] is None:
            raise ValueError(
                f"{path} has the label {label!r} and otherwise numbers: labels that are numbers "
                "are class numbers, which are whole and start at 0; give names instead"
            )
    numbers = {label: int(match[1]) for label, match in numbers.items()}
    return [(image, [numbers[n] for n in labels], *rest) for image, labels, *rest in rows]


def _is_number(label):
    try:
        float(label)
    except ValueError:
        return False
    return True


def _find_columns(names):
    """{column: the name that it has here} of those that exist."""
    found = {column: [n for n in accepted if n in names] for column, accepted in COLUMNS.items()}
    return {column: present[0] for column, present in found.items() if present}


def _read_json(path, text):
    if path.lower().endswith(LINES_ENDINGS):
        lines = [(f"{path} line {n}", line) for n, line in enumerate(text.split("\n"), start=1)]
        more = "; a line is one object, without a comma behind it"
        table = [(where, _parse_json(where, line, more)) for where, line in lines if line.strip()]
    else:
        parsed = _parse_json(path, text, "; one object on each line is a .jsonl file")
        if not isinstance(parsed, list):
            raise ValueError(f"{path} must be a JSON list of objects with {_COLUMNS}")
        table = [(f"{path} object {n}", row) for n, row in enumerate(parsed)]
    rows, names, used = [], {}, set()
    for where, row in table:
        row = {key.strip().lower(): v for key, v in row.items()} if isinstance(row, dict) else {}
        columns = _find_columns(row)
        missing = [c for c in ("image", "label") if c not in columns]
        if missing:
            raise ValueError(f"{where} lacks {' and '.join(missing)}: it needs {_COLUMNS}")
        names.update(row)
        used.update(columns.values())
        image, label, split = (row.get(columns.get(c)) for c in ("image", "label", "split"))
        labels = label if isinstance(label, list) else [label]
        split = _split_text(columns.get("split"), split, where)
        rows.append(_checked_row(where, image, labels, split))
    return rows, [name for name in names if name not in used]


def _parse_json(where, text, more):
    """The value of a JSON text; `more` is the advice if something follows it."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        more = more if "Extra data" in str(error) else ""
        raise ValueError(f"{where} is not valid JSON: {error}{more}") from error


def _split_text(column, value, where):
    """The name of a split, of the value of its column."""
    if column not in _IS_VALIDATION or value is None or value == "":
        return value
    is_validation = _TRUTH.get(str(value).strip().lower())
    if is_validation is None:
        raise ValueError(f"{where} has {column} {value!r}; accepted: true, false")
    return VALIDATION if is_validation else TRAINING


def _checked_row(where, image, labels, split):
    image = image.strip() if isinstance(image, str) else ""
    if not image:
        raise ValueError(f"{where} has no image")
    labels = [_cleaned(label) for label in labels]
    if any(isinstance(text, str) and re.search(r"[\r\n]", text) for text in (image, *labels)):
        raise ValueError(
            f"{where} has a line break in its image or label: is a double quote missing, or one "
            "too many?"
        )
    for label in labels or [""]:
        if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
            raise ValueError(f"{where} ({image}) needs a label that is a name or a class number")
    return _file_path(image, where), labels, split, where


def _file_path(image, where):
    """The path that an image is given by: as a path, with ``~/`` or as a ``file:`` URL."""
    image = image.replace("\\", "/")  # of Windows
    if not image.lower().startswith("file:"):
        return os.path.expanduser(image) if image.startswith("~/") else image
    url = urllib.parse.urlsplit(image)
    if url.netloc.lower() not in ("", "localhost"):
        raise ValueError(
            f"{where} has the URL {image}, of the host {url.netloc!r}: write file:///FOLDER/FILE, "
            "or a path"
        )
    return urllib.request.url2pathname(url.path)


def _cleaned(label):
    """A label as folders of classes have it; pandas writes class numbers as 3.0, too."""
    if isinstance(label, float) and label.is_integer():
        return int(label)
    return unicodedata.normalize("NFC", label.strip()) if isinstance(label, str) else label


def _number_classes(path, rows):
    """(class names, {label: class number}); labels that are numbers keep their value."""
    labels = {label for _, row_labels, _, _ in rows for label in row_labels}
    types = {type(label) for label in labels}
    if len(types) > 1:
        raise ValueError(
            f"{path} mixes labels that are names and labels that are numbers: use one of them"
        )
    if types == {int}:
        if min(labels) < 0:
            raise ValueError(f"{path} has the label {min(labels)}: class numbers start at 0")
        (length, *lengths) = {len(row_labels) for _, row_labels, _, _ in rows}
        if labels == {0, 1} and length > 1 and not lengths:
            raise ValueError(
                f"{path} has lists of 0 and 1 of one length as labels, as one-hot labels are: give "
                "the numbers of the classes"
            )
        classes = numbered_classes(path, max(labels))
        return classes, {n: n for n in labels}
    classes = sorted(labels)
    return classes, {name: n for n, name in enumerate(classes)}


def _split(name, where):
    split = split_of(name) if isinstance(name, str) else None
    if split is None:
        raise ValueError(f"{where} has the split {name!r}; accepted: train, validation, test")
    return split


def _check_splits(path, rows, has_split):
    splits = collections.defaultdict(list)
    for row in rows:
        splits[os.path.normpath(row.path)].append(row.is_evaluation)
    leaks = [image for image, values in splits.items() if len(set(values)) > 1]
    duplicates = [image for image, values in splits.items() if len(values) > 1]
    for images, problem in (
        (leaks, "in both splits, which would leak training images into the evaluation"),
        (duplicates, "more than once (write several labels of an image in one row)"),
    ):
        if images:
            more = f" and {len(images) - 3} others" if len(images) > 3 else ""
            raise ValueError(f"{path} has {', '.join(images[:3])}{more} {problem}")
    if has_split and len({row.is_evaluation for row in rows}) < 2:
        split = "evaluation" if rows[0].is_evaluation else "training"
        raise ValueError(
            f"{path} has a split column, but only {split} rows: leave it out, or use both splits"
        )
