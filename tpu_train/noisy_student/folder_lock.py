"""A lock of a folder, which keeps two processes of a machine from writing to it at once.

It locks the folder itself: filelock, which the rest of the project uses, needs a file, which would
stay beside the results.
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
    if fcntl is None or "://" in folder:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is writing to {folder}: wait until it has finished, or give "
                "another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
