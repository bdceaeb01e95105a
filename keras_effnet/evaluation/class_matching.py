"""Which output of a classifier each class of a data set is: by name, WordNet id or number."""

from __future__ import annotations

import collections
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from keras_effnet.datasets.splits import some
from keras_effnet.labels import imagenet_classes, label_map
from keras_effnet.suggestions import did_you_mean

_some = functools.partial(some, most=5)  # names in a message
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassMatch:
    """The outputs of the data's classes."""

    outputs: tuple[int, ...]  # of each class of the data
    names: tuple[str, ...]  # of all outputs
    note: str  # how they were matched: one line


def match_classes(
    data_classes: Sequence[str], outputs: int, names: Sequence[str] | None = None
) -> ClassMatch:
    """The :class:`ClassMatch` of a data set's classes and a classifier with `outputs` outputs.

    Names are equal if they differ only in case, spaces, hyphens and underscores. `names` are those
    of the outputs; without them 1,000, 1,001 and 21,843 outputs are ImageNet's, whose classes are
    also known by their WordNet id (n01440764) and by each of their names. Classes that are the
    numbers from 0 or from 1 are the outputs in order; other numbers are those of outputs, from 0.
    Without names, as many classes as outputs are taken in their order.

    Raises ``ValueError``, with the names, for classes that are not the classifier's or are the same
    class of it, and for data whose classes cannot be matched without names.

    >>> match_classes(["dog", "Cat"], 3, ["cat", "dog", "owl"]).outputs
    (1, 0)
    """
    if names is not None and len(names) != outputs:
        raise ValueError(
            f"{len(names)} class names for a model with {outputs:,} outputs: give one name for "
            "each output, in their order (--labels)"
        )
    imagenet = label_map(outputs) if outputs != 1000 else list(range(1000))
    is_imagenet = imagenet is not None and names in (None, imagenet_classes())
    imagenet = imagenet if is_imagenet else None
    is_numbered = all(name.isdecimal() for name in data_classes)
    if names is None and not is_imagenet:
        if is_numbered and (_is_counted(data_classes) or len(data_classes) != outputs):
            return _by_number(data_classes, outputs, tuple(map(str, range(outputs))), None)
        if len(data_classes) != outputs:
            raise ValueError(
                f"the model has {outputs:,} outputs without names, the data has "
                f"{len(data_classes):,} classes ({_some(data_classes)}): give --labels=FILE with "
                "the class name of each output, one a line"
            )
        note = (
            f"the model has no class names: its {outputs} outputs are taken as the data's classes "
            f"in their order ({_some(data_classes)}); --labels=FILE states them"
        )
        return ClassMatch(tuple(range(outputs)), tuple(data_classes), note)
    known = _imagenet_names(imagenet, outputs) if is_imagenet else tuple(names)
    keys = _keys(known, imagenet)
    candidates = [keys.get(name) or keys.get(_folded(name), ()) for name in data_classes]
    if not all(candidates) and is_numbered:
        return _by_number(data_classes, outputs, known, imagenet)
    if tuple(data_classes) == tuple(names or ()):  # in which a name may occur twice
        matched = tuple(range(outputs))
    else:
        _check(data_classes, candidates, known)
        matched = tuple(found[0] for found in candidates)
    note = f"{len(matched):,} of the model's {outputs:,} classes, matched by name"
    if matched == tuple(range(outputs)):
        note = f"the model's {outputs:,} classes, in its order"
    elif sorted(matched) == list(range(outputs)):
        note = f"the model's {outputs:,} classes, in another order: matched by name"
    return ClassMatch(matched, known, note)


def wordnet_ids_of(identifiers: Sequence[str]) -> list[str] | None:
    """The WordNet ids that image files begin with (``n01440764_18.JPEG``); None unless all do.

    >>> wordnet_ids_of(["photos/n01440764_tench.JPEG"])
    ['n01440764']
    """
    ids = [_WORDNET_ID.match(os.path.basename(identifier)) for identifier in identifiers]
    return [match.group() for match in ids] if ids and all(ids) else None


def _imagenet_names(mapping, outputs):
    """Short names of ImageNet's outputs: the first name of each class where it is unique."""
    full = imagenet_classes()
    short = [name.split(",")[0] for name in full]
    counts = collections.Counter(short)
    names = [f"output {i}" for i in range(outputs)]
    for k, output in enumerate(mapping):
        if output >= 0:
            names[output] = short[k] if counts[short[k]] == 1 else full[k]
    return tuple(names)


def _keys(known, imagenet):
    """{name: outputs} of exact names, folded names and ImageNet's ids and other names."""
    keys = collections.defaultdict(list)
    for output, name in enumerate(known):
        for key in dict.fromkeys((name, _folded(name))):
            keys[key].append(output)
    if imagenet is None:
        return keys
    for output, wordnet_id, names in zip(imagenet, imagenet_classes("wnid"), imagenet_classes()):
        if output < 0:
            continue
        keys[wordnet_id] = [output]
        for name in (names, *names.split(",")):
            if output not in keys[_folded(name)]:
                keys[_folded(name)].append(output)
    return keys


def _folded(name):
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()


def _is_counted(names):
    """Whether they are the numbers from 0 or from 1 in order: of data without class names."""
    return any(list(names) == [str(n + k) for n in range(len(names))] for k in (0, 1))


def _by_number(data_classes, outputs, known, imagenet):
    """Classes that are numbers: counted from 0 or 1, or else numbers of outputs."""
    counted = _is_counted(data_classes)
    numbers = range(len(data_classes)) if counted else [int(name) for name in data_classes]
    mapping = range(outputs) if imagenet is None else imagenet
    matched = tuple(mapping[n] for n in numbers if n < len(mapping))
    if len(matched) < len(data_classes) or min(matched) < 0:
        raise ValueError(
            f"the data has {len(data_classes):,} classes, which are numbers, and the model has "
            f"{outputs:,} outputs ({_some(known)}): they are not the same classes"
        )
    order = "in the order of the model's outputs" if counted else "of the model's outputs, from 0"
    note = f"the data's {len(matched):,} classes are numbers, {order}"
    return ClassMatch(matched, known, note)


def _check(data_classes, candidates, known):
    missing = [name for name, found in zip(data_classes, candidates) if not found]
    if missing:
        these = "class is" if len(missing) == 1 else f"{len(missing)} classes are"
        raise ValueError(
            f"{these} in the data, but not among the model's {len(known):,} ({_some(known)}): "
            f"{_some([repr(name) for name in missing])}.{did_you_mean(missing[0], known)} Rename "
            "them, or give --labels=FILE with the class name of each output, one a line"
        )
    for name, found in zip(data_classes, candidates):
        if len(found) > 1:
            raise ValueError(
                f"{name!r} is the name of the model's classes {' and '.join(map(str, found))}: "
                "use their WordNet ids, or give --labels=FILE with different names"
            )
    owners = collections.defaultdict(list)
    for name, (output,) in zip(data_classes, candidates):
        owners[output].append(name)
    for output, same in owners.items():
        if len(same) > 1:
            raise ValueError(
                f"the data's classes {' and '.join(map(repr, same))} are both the model's class "
                f"{known[output]!r}: merge them"
            )
