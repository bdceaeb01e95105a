"""Waiting for the other workers of ``TF_CONFIG``, before TensorFlow does.

TensorFlow waits without a word, holds Python's lock meanwhile and catches SIGTERM. Until every
other worker answers, this worker therefore listens on its port itself, so that they see it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time

REPORT_SECONDS = 10.0
GIVE_UP_SECONDS = 30 * 60.0
_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 1.0


def other_workers(tf_config: str) -> tuple[str, dict[str, str]]:
    """(this worker's address, {"worker 1": "10.0.0.2:2222", ...}) of a ``TF_CONFIG``.

    ("", {}) if it is unclear: TensorFlow then reports what is wrong.

    >>> task = '"task": {"type": "worker", "index": 0}'
    >>> other_workers('{"cluster": {"worker": ["a:1", "b:1"]}, ' + task + "}")
    ('a:1', {'worker 1': 'b:1'})
    """
    try:
        config = json.loads(tf_config)
        task = config["task"]["type"], int(config["task"]["index"])
        others = {
            f"{job} {index}": address
            for job in ("chief", "worker")
            for index, address in enumerate(config["cluster"].get(job, ()))
            if (job, index) != task
        }
        return config["cluster"][task[0]][task[1]], others
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", {}


def check_tf_config(tf_config: str) -> None:
    """Raises ``ValueError`` for a ``TF_CONFIG`` that TensorFlow cannot read.

    >>> check_tf_config('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}')
    """
    form = (
        '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}; or '
        "unset it to train on this machine alone"
    )
    try:
        config = json.loads(tf_config)
    except ValueError as error:
        raise ValueError(f"TF_CONFIG is not JSON ({error}): give {form}") from error
    if not isinstance(config, dict):
        raise ValueError(f"TF_CONFIG is a {type(config).__name__}: give {form}")
    cluster = config.get("cluster", {})
    if not isinstance(cluster, dict) or not all(
        isinstance(addresses, (list, dict)) for addresses in cluster.values()
    ):
        raise ValueError(f"TF_CONFIG has the cluster {cluster!r}: give {form}")
    if not isinstance(config.get("task", {}), dict):
        raise ValueError(f"TF_CONFIG has the task {config['task']!r}: give {form}")


def wait_for_workers(tf_config: str, wait_seconds: float = GIVE_UP_SECONDS) -> None:
    """Returns when all other workers of a ``TF_CONFIG`` answer; reports those that do not.

    Raises ``ValueError`` after `wait_seconds`.
    """
    address, missing = other_workers(tf_config)
    start = time.monotonic()
    report_at = start + REPORT_SECONDS
    with contextlib.ExitStack() as stack:
        if missing:
            _listen(address, stack)
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
