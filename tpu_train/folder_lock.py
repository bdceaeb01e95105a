"""A lock of a folder, which keeps two processes of a machine from writing to it at once.

It locks the folder itself: filelock, which searches use, needs a file, which would stay beside the
results.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Locks an existing local folder within the block; the system unlocks it if the process ends.

    Does nothing for a remote folder, and where folders have no locks. Raises ``ValueError`` if
    another process has the lock.
    """
    with contextlib.ExitStack() as stack:
        _lock(folder, stack, exclusive=True)
        yield


def check_unlocked(folder: str) -> None:
    """Raises ``ValueError`` if another process has the lock of a folder, which need not exist."""
    if os.path.isdir(folder):
        with contextlib.ExitStack() as stack:
            _lock(folder, stack, exclusive=False)  # two checks at once do not meet


def _lock(folder, stack, *, exclusive):
    if fcntl is None or "://" in folder:
        return
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another process is writing to {folder}: wait until it has finished, end it (fuser "
            f"{folder} prints its number), or give another folder"
        ) from None
    except OSError:
        pass  # a file system without locks, or a folder that cannot be read
