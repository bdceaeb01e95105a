"""Waiting for the other workers of ``TF_CONFIG``, before TensorFlow does.

TensorFlow waits without a word, holds Python's lock meanwhile and catches SIGTERM. Until every
other worker answers, this worker therefore listens on its port itself, so that they see it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

from tpu_train.tf_config import read_cluster

REPORT_SECONDS = 10.0
GIVE_UP_SECONDS = 30 * 60.0
_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 1.0


def wait_for_workers(tf_config: str, wait_seconds: float = GIVE_UP_SECONDS) -> None:
    """Returns when all other workers of a ``TF_CONFIG`` answer; reports those that do not.

    Raises ``ValueError`` after `wait_seconds`, and as
    :func:`~tpu_train.tf_config.read_cluster` does.
    """
    cluster = read_cluster(tf_config)
    missing = cluster.others if cluster else {}
    start = time.monotonic()
    report_at = start + REPORT_SECONDS
    with contextlib.ExitStack() as stack:
        if missing:
            _listen(cluster.address, stack)
        while missing := {n: a for n, a in missing.items() if not _answers(a)}:
            whom = ", ".join(f"{name} ({where})" for name, where in missing.items())
            now = time.monotonic()
            if now - start >= wait_seconds:
                raise ValueError(
                    f"gave up after waiting {wait_seconds:.4g} s for {whom}: start the same "
                    "command there, too, or wait longer (--wait_for_workers=2h)"
                )
            if now >= report_at:
                print(
                    f"effnet-train: waiting for {whom}: start the same command there, too. Gives "
                    f"up after {wait_seconds / 60:.3g} minutes; Ctrl-C ends it",
                    file=sys.stderr,
                    flush=True,
                )
                report_at = now + 60
            time.sleep(_POLL_SECONDS)


def _listen(address, stack):
    """Listens on this worker's port, unless something does already."""
    port = address.rpartition(":")[2]
    listener = stack.enter_context(socket.socket())
    with contextlib.suppress(OSError, ValueError, OverflowError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", int(port)))
        listener.listen()


def _answers(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
