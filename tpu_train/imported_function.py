"""Functions that a flag names as ``module:function``, e.g. ``--model`` and ``--callback``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator


def check_name(flag: str, name: str) -> None:
    """Raises ``ValueError`` unless `name` is module:function of a package that is installed.

    Imports nothing: a package may import TensorFlow.

    >>> check_name("callback", "json:dumps")
    >>> check_name("model", "my_file.py:net")
    Traceback (most recent call last):
    ValueError: --model=my_file.py:net names a file: give my_file:net; the file must be in the \
current folder or in PYTHONPATH
    """
    module, colon, function = name.partition(":")
    if module.endswith(".py"):
        raise ValueError(
            f"--{flag}={name} names a file: give {os.path.basename(module)[:-3]}:{function}; the "
            "file must be in the current folder or in PYTHONPATH"
        )
    parts = [*module.split("."), function]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"--{flag}={name} is invalid: give module:function, e.g. my_file:my_function"
        )
    with _current_folder():
        # Only of the top-level package: for the others, importlib imports their parents.
        if parts[0] not in sys.modules and importlib.util.find_spec(parts[0]) is None:
            raise ValueError(
                f"--{flag}={name} cannot be imported: there is no module {parts[0]!r} in the "
                "current folder, in PYTHONPATH or among the installed packages"
            )


def import_function(flag: str, name: str) -> Callable:
    """The function ``module:function``; the module may be a file in the current folder.

    Raises ``ValueError`` if it cannot be imported, with the reason and the line that raised it.

    >>> import_function("callback", "json:dumps").__name__
    'dumps'
    """
    check_name(flag, name)
    module, _, function = name.partition(":")
    try:
        with _current_folder():
            value = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the module's code raises
        raise ValueError(f"--{flag}={name} cannot be imported: {describe(error)}") from error
    if not callable(value):
        raise ValueError(f"--{flag}={name} is not a function, but {type(value).__name__}")
    return value


def describe(error: BaseException) -> str:
    """One line: type and text of an exception, and the line of code that raised it."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    )
    return f"{type(error).__name__}{': ' * bool(text)}{text}{where}"


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder is searched for modules, too: a command's ``sys.path`` lacks it."""
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
