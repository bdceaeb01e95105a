"""How the settings of unfinished work differ from those of the command that resumes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping


def differences(recorded: Mapping, current: Mapping) -> str:
    """The `current` settings, JSON values, that differ from the recorded ones; "" if none do.

    Long values, and hashes, are named but not shown.

    >>> differences({"epochs": 1, "rule": {"seed": 0}}, {"epochs": 2, "rule": {"seed": 0}})
    'epochs 1, now 2'
    >>> hashes = [{"labels_sha256": letter * 64, "classes": list(letter)} for letter in "ab"]
    >>> differences(*hashes)
    "different labels; classes ['a'], now ['b']"
    """
    recorded = dict(_flat(recorded))
    return "; ".join(
        _describe(name, recorded.get(name), value)
        for name, value in _flat(json.loads(json.dumps(current)))
        if recorded.get(name) != value
    )


_LONGEST = 120  # characters of both values that are shown


def _flat(settings: Mapping) -> Iterator[tuple[str, object]]:
    """(name, value) of all settings; those of a dictionary have its name before theirs."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in _flat(value))
        else:
            yield name, value


def _describe(name, recorded, value):
    values = f"{recorded!r}, now {value!r}"
    if name.endswith("_sha256") or len(values) > _LONGEST:
        return f"different {name.removesuffix('_sha256')}"
    return f"{name} {values}"
