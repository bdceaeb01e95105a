"""Names of the training, validation and test split, and the folders that have them."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence

TRAINING, VALIDATION, MINIVAL, TEST = "train", "validation", "minival", "test"
ALL = "all"  # the only split of data without splits

_SPLIT_NAME = re.compile(
    r"(?:(?P<train>train|training|trn)|(?P<validation>val|valid|validation|dev|eval|evaluation)"
    r"|(?P<test>test|tests|testing|tst))(?:[ _-]?(?:set|data|images|split))?",
    re.IGNORECASE,
)
_NAMED = {TRAINING: "training", VALIDATION: "validation", TEST: "test"}


def split_of(name: str) -> str | None:
    """TRAINING, VALIDATION or TEST, if it is a usual name of that split, else None.

    >>> [split_of(name) for name in ("Train", "valid", "dev", "test_set", "cat")]
    ['train', 'validation', 'validation', 'test', None]
    """
    match = _SPLIT_NAME.fullmatch(name.strip())
    return match and match.lastgroup


def evaluation_split(splits: Sequence[str]) -> str | None:
    """The split to evaluate on: validation, else minival, else test; None if there is none.

    >>> evaluation_split(("train", "test", "validation"))
    'validation'
    """
    return next((split for split in (VALIDATION, MINIVAL, TEST) if split in splits), None)


def find_splits(
    folder: str, inside: Mapping[str, set[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """({split: name of its folder}, notes) of the folders of images in a folder.

    `inside` has for each of them the names of the folders in it; "" for images directly in it. The
    dict is empty without split folders. Raises ``ValueError`` for folders that may be either splits
    or classes.
    """
    named = collections.defaultdict(list)
    for name in inside:
        named[split_of(name)].append(name)
    training, others = named[TRAINING], named[None]
    held_out = named[VALIDATION] + named[TEST]
    if not training and not held_out:
        return {}, ()
    if not training and not others:
        raise ValueError(
            f"{folder} has the folders {some(held_out)} and no training images: it needs a folder "
            "train beside them"
        )
    if others and not (training and held_out):
        split = (training or held_out)[0]
        if training and "" in inside[split]:
            return {}, ()  # a class of vehicles
        raise ValueError(
            f"{folder} has the folders {some([split, *others])}: is {split} a class, or the "
            f"{_NAMED[split_of(split)]} images? Rename it if it is a class. If not, give a folder "
            "with the folders train and validation, each with one folder per class"
        )
    unlabeled = [name for name in held_out if inside[name] == {""}]
    splits = {}
    for split in (TRAINING, VALIDATION, TEST):
        names = [name for name in named[split] if name not in unlabeled]
        if len(names) > 1:
            raise ValueError(
                f"{folder} has {some(names)}, which are the same split: merge them, or move the "
                "others out of it"
            )
        if names:
            splits[split] = names[0]
    notes = []
    if unlabeled:
        notes.append(f"not used, because they have no class folders: {some(unlabeled)}")
    if others:
        notes.append(f"not used, because they are no splits: {some(others)}")
    return splits, tuple(notes)


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more it has."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
