"""What a path of images is: its kind, and the splits, classes and images of a folder.

Without TensorFlow: commands check their flags before they import it, and a folder is sorted as a
list of file names.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keras_effnet.image_decoding import IMAGE_ENDINGS, IMAGE_FORMATS, image_format

ACCEPTED = (
    "a folder with one folder of images per class, a folder of TFRecord shards "
    "(train-00000-of-00008, ...), a CSV or JSON manifest, an .npz file with the arrays images and "
    "labels, or tfds:NAME"
)
FILE_ENDINGS = (".csv", ".json", ".npz")
TRAINING, VALIDATION, TEST = "training", "validation", "test"

_SPLIT_NAME = re.compile(
    r"(?:(?P<training>train|training|trn)|(?P<validation>val|valid|validation|dev|eval|evaluation)"
    r"|(?P<test>test|tests|testing|tst))(?:[ _-]?(?:set|data|images|split))?",
    re.IGNORECASE,
)
# Left behind by archives and operating systems, beside all names that start with a dot.
_LEFTOVERS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
_DOCUMENTS = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".yaml", ".yml", ".pdf", ".log"),
    *(".py", ".ipynb", ".sh"),
)


@dataclass(frozen=True)
class ClassImages:
    """The images of a folder of class folders, and what was left out."""

    images: tuple[tuple[str, str], ...]  # (class, path relative to the folder), sorted
    notes: tuple[str, ...]  # one line for each kind of file that is not used

    @property
    def classes(self) -> list[str]:
        """The class names, sorted."""
        return sorted({name for name, _ in self.images})


def check_path(data: str) -> None:
    """Raises ``ValueError`` for a local path that cannot be images; remote ones are not looked at.

    >>> check_path("gs://bucket/photos")
    """
    if data.startswith("tfds:") or "://" in data:
        return
    if not os.path.exists(data):
        raise ValueError(f"data {data!r} does not exist: give {ACCEPTED}")
    if not os.path.isdir(data) and not data.lower().endswith(FILE_ENDINGS):
        raise ValueError(f"data {data!r} has an unknown type: give {ACCEPTED}")


def check_picture(path: str, images: int) -> None:
    """Raises ``ValueError`` for a preview that cannot be drawn of `images` or written to `path`."""
    if images < 2 or images % 2:
        raise ValueError(f"images must be even and at least 2 (mixup pairs them), got {images}")
    if not path.lower().endswith(".png"):
        raise ValueError(f"the picture {path} must have the ending .png")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"folder {folder} does not exist: create it, or choose another one")


def check_holdout(holdout: float) -> None:
    """Raises ``ValueError`` unless it is a fraction between 0 and 1."""
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must be between 0 and 1, e.g. 0.2; got {holdout}")


def split_of(name: str) -> str | None:
    """TRAINING, VALIDATION or TEST, if it is a usual name of that split, else None.

    >>> [split_of(name) for name in ("Train", "valid", "dev", "test_set", "cat")]
    ['training', 'validation', 'validation', 'test', None]
    """
    match = _SPLIT_NAME.fullmatch(name.strip())
    return match and match.lastgroup


def is_leftover(path: str) -> bool:
    """Whether a relative path is hidden, or left behind by an archive or an operating system.

    >>> [is_leftover(path) for path in ("cat/._0.jpg", "cat/Thumbs.db", "cat/0.jpg")]
    [True, True, False]
    """
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in path.split("/"))


def find_splits(folder: str, files: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """({TRAINING: name, VALIDATION: name}, notes) of the split folders among `files`.

    `files` are relative to the folder. A test folder is the evaluation set if there is no
    validation folder, and else not used. Without split folders, both are empty; the dict has only
    TRAINING if there is nothing to evaluate on. Raises ``ValueError`` for folders that may be
    either splits or classes.
    """
    inside = _image_folders(files)
    named = collections.defaultdict(list)
    for name in inside:
        named[split_of(name)].append(name)
    training, others = named[TRAINING], named[None]
    held_out = named[VALIDATION] + named[TEST]
    if not training and not held_out:
        return {}, ()
    if not training and not others:
        raise ValueError(
            f"{folder} has the folders {_some(held_out)} and no training images: it needs a folder "
            "train beside them"
        )
    if others and not (training and held_out):
        split = (training or held_out)[0]
        if training and "" in inside[split]:
            return {}, ()  # a class of vehicles
        raise ValueError(
            f"{folder} has the folders {_some([split, *others])}: is {split} a class, or the "
            f"{split_of(split)} images? Rename it if it is a class. If not, give a folder with the "
            "folders train and validation, each with one folder per class"
        )
    unlabeled = [name for name in held_out if inside[name] == {""}]
    validation, test = ([n for n in named[s] if n not in unlabeled] for s in (VALIDATION, TEST))
    evaluation = validation or test
    for names in (training, evaluation):
        if len(names) > 1:
            raise ValueError(
                f"{folder} has {_some(names)}, which are the same split: merge them, or move the "
                "others out of it"
            )
    notes = []
    if validation and test:
        notes.append(
            f"kept out of training and evaluation: the test images in {_some(test)}; "
            f"{_some(validation)} is the evaluation set"
        )
    if unlabeled:
        notes.append(f"not used, because they have no class folders: {_some(unlabeled)}")
    if others:
        notes.append(f"not used, because they are no splits: {_some(others)}")
    splits = {TRAINING: training[0]}
    if evaluation:
        splits[VALIDATION] = evaluation[0]
    return splits, tuple(notes)


def find_images(
    folder: str, files: Sequence[str], read_heads: Callable[[list[str]], list[bytes]]
) -> ClassImages:
    """The images among the `files` of a folder, and their classes: its folders.

    A file with another ending than those of images is one if its content is: `read_heads` returns
    the first bytes of files. Raises ``ValueError`` for no images, for fewer than two classes, for
    a class none of whose files can be read, and for folders that may be something else than
    classes.
    """
    present = [file for file in files if not is_leftover(file)]
    leftovers = [file for file in files if is_leftover(file) and "/" in file]
    in_classes = [file for file in present if "/" in file]
    strays = [file for file in present if "/" not in file and _has_image_ending(file)]
    unknown = [file for file in in_classes if not _has_image_ending(file)]
    formats = dict(zip(unknown, map(image_format, read_heads(unknown))))
    kinds = {
        file: name if name == "HEIC" else os.path.splitext(file)[1].lower() or "without an ending"
        for file, name in formats.items()
        if name not in IMAGE_FORMATS
    }
    images = tuple(sorted((f.split("/")[0], f) for f in in_classes if f not in kinds))
    classes = {name for name, _ in images}
    lost = collections.defaultdict(dict)
    for file, kind in kinds.items():
        if file.split("/")[0] not in classes:
            lost[file.split("/")[0]][file] = kind
    _check_lost(folder, lost)
    _check_classes(folder, images, sorted(classes), strays)
    notes = []
    if leftovers:
        notes.append(
            f"left out {len(leftovers)} hidden files and files of archives and operating systems: "
            f"{_some(leftovers)}"
        )
    if kinds:
        notes.append(f"not read, because they are no images of a known format: {_counts(kinds)}")
    if lost:
        notes.append(f"no classes, because they have no images: {_some(sorted(lost))}")
    if strays:
        notes.append(f"not used, because they are in no class folder: {_some(strays)}")
    return ClassImages(images, tuple(notes))


def _image_folders(files):
    """{folder at the top: {folder in it, or "" for images directly in it}} of image files."""
    inside = collections.defaultdict(set)
    for file in files:
        parts = file.split("/")
        if len(parts) > 1 and not is_leftover(file) and not file.lower().endswith(_DOCUMENTS):
            inside[parts[0]].add(parts[1] if len(parts) > 2 else "")
    return dict(sorted(inside.items()))


def _check_lost(folder, lost):
    for name, kinds in sorted(lost.items()):
        if not all(kind in _DOCUMENTS for kind in kinds.values()):
            raise ValueError(
                f"{folder}: no image of the class {name} can be read ({_counts(kinds)}): convert "
                f"them to JPEG or PNG, or move {name} out of the folder. Read are "
                f"{', '.join(IMAGE_FORMATS)}"
            )


def _check_classes(folder, images, classes, strays):
    if not images:
        raise ValueError(
            f"{folder} has no images{' in folders' if strays else ''}: it needs one folder per "
            f"class with {'/'.join(IMAGE_ENDINGS)} files"
        )
    inside = _image_folders([path for _, path in images])
    if len(classes) < 2:
        inner = sorted(inside[classes[0]] - {""})
        raise ValueError(
            f"{folder} has images of only one class ({classes[0]}); it needs one folder per class "
            "and at least two classes"
            + (f": did you mean {os.path.join(folder, classes[0])}?" if len(inner) > 1 else "")
        )
    shared = set.intersection(*inside.values())
    if len(shared) > 1 and not any("" in folders for folders in inside.values()):
        raise ValueError(
            f"{folder}: are the classes {_some(classes)}, or {_some(sorted(shared))}, which each "
            f"of them contains? The folders directly in {folder}, or in its train and validation, "
            "must be the classes and their images must not be sorted into the same folders again; "
            "a CSV manifest takes any layout"
        )


def _has_image_ending(file):
    return file.lower().endswith(IMAGE_ENDINGS)


def _counts(kinds: Mapping[str, str]):
    """The number of each kind of {file: kind}: "3 .txt, 1 HEIC"."""
    return ", ".join(f"{n} {kind}" for kind, n in collections.Counter(kinds.values()).most_common())


def _some(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
