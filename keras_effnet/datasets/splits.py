"""Names of the training, validation and test split, and the folders that have them."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence

TRAINING, VALIDATION, MINIVAL, TEST = "train", "validation", "minival", "test"
ALL = "all"  # the only split of data without splits

_SPLIT_NAME = re.compile(
    r"(?P<prefix>.*?[ _.-])??"
    r"(?:(?P<train>train|training|trn|tr)"
    r"|(?P<validation>val|valid|validation|validate|vld|dev|devel|development|eval|evaluation"
    r"|holdout|hold[ _-]out)"
    r"|(?P<test>test|tests|testing|tst|te))"
    r"(?:[ _.-]?(?:set|data|dataset|images?|imgs?|split|folder|\d+))?",
    re.IGNORECASE,
)
_NAMED = {TRAINING: "training", VALIDATION: "validation", TEST: "test"}


def split_of(name: str) -> str | None:
    """TRAINING, VALIDATION or TEST, if it is a usual name of that split, else None.

    >>> [split_of(name) for name in ("Train", "valid", "dev", "test_set", "train2017", "cat")]
    ['train', 'validation', 'validation', 'test', 'train', None]
    """
    prefix, split = _prefix_and_split(name)
    return None if prefix else split


def _prefix_and_split(name):
    match = _SPLIT_NAME.fullmatch(name.strip())
    if match is None:
        return "", None
    splits = (split for split in _NAMED if match[split])
    return match["prefix"] or "", next(splits)


def _splits_of(names):
    """{name: split or None}; a prefix that training and another split share is ignored."""
    plain = {name: split_of(name) for name in names}
    if any(plain.values()):
        return plain
    by_prefix = collections.defaultdict(dict)
    for name in names:
        prefix, split = _prefix_and_split(name)
        by_prefix[prefix][name] = split
    for splits in by_prefix.values():
        if TRAINING in splits.values() and {VALIDATION, TEST} & set(splits.values()):
            return {name: splits.get(name) for name in names}
    return plain


def evaluation_split(splits: Sequence[str]) -> str | None:
    """The split to evaluate on: validation, else minival, else test; None if there is none.

    >>> evaluation_split(("train", "test", "validation"))
    'validation'
    """
    return next((split for split in (VALIDATION, MINIVAL, TEST) if split in splits), None)


def splits_below(folder: str, inside: Mapping[str, set[str]]) -> str | None:
    """The folder that has the splits, as ``images`` with ``train`` and ``val``; else None.

    `inside` is as in :func:`find_splits`. Raises ``ValueError`` if there are folders of images
    beside it, which may be classes.

    >>> splits_below("d", {"images": {"train", "val"}, "labels": {"train"}})
    'images'
    """
    if any(_splits_of(inside).values()):
        return None
    around = []
    for name, folders in inside.items():
        splits = set(_splits_of(folders).values())
        if TRAINING in splits and splits & {VALIDATION, TEST}:
            around.append(name)
    if len(around) != 1:
        return None
    beside = [name for name, folders in inside.items() if "" in folders and name != around[0]]
    if beside:
        raise ValueError(
            f"{folder} has the folders {some([*around, *beside])}, and {around[0]} has training "
            f"and evaluation images in it: give {folder}/{around[0]} to train on these"
        )
    return around[0]


def find_splits(
    folder: str, inside: Mapping[str, set[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """({split: name of its folder}, notes) of the folders of images in a folder.

    `inside` has for each of them the names of the folders in it; "" for images directly in it. The
    dict is empty without split folders. Raises ``ValueError`` for folders that may be either splits
    or classes.
    """
    named = collections.defaultdict(list)
    for name, split in _splits_of(inside).items():
        named[split].append(name)
    training, others = named[TRAINING], named[None]
    held_out = named[VALIDATION] + named[TEST]
    if not training and not held_out:
        return {}, ()
    if not training and not others:
        raise ValueError(
            f"{folder} has the folders {some(held_out)} and no training images: it needs a folder "
            "train beside them"
        )
    without_classes = training and "" in inside[training[0]]
    if others and without_classes and not held_out:
        return {}, ()  # a class of vehicles
    if others and (without_classes or not (training and held_out)):
        split = (training or held_out)[0]
        meaning = next(name for key, name in _NAMED.items() if split in named[key])
        raise ValueError(
            f"{folder} has the folders {some([split, *others])}: is {split} a class, or the "
            f"{meaning} images? Rename it if it is a class. If not, give a folder "
            "with the folders train and validation, each with one folder per class"
        )
    unlabeled = [name for name in held_out if inside[name] == {""}]
    splits = {}
    for split in _NAMED:
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


def some(names: Sequence, most: int = 3) -> str:
    """The first names of a list, and how many more it has.

    >>> some(["cat", "dog", "owl"], 2)
    'cat, dog and 1 other'
    """
    more = len(names) - most
    others = f" and {more:,} other{'s' if more > 1 else ''}" if more > 0 else ""
    return ", ".join(map(str, names[:most])) + others
