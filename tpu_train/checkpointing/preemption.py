"""Requests to stop a run: signals, a time limit, the cloud's preemption notice.

::

    with interrupts(stop_after=parse_duration("11h")) as stop:
        train(..., stop=stop)   # stop() is "SIGTERM", "time limit 11h", "preemption notice" or ""
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

STOPPED = 75  # exit status EX_TEMPFAIL: try again
METADATA = "169.254.169.254"  # metadata.google.internal, without a DNS query
POLL_SECONDS = 5.0  # a preempted machine ends 30 s after the notice
_TIMEOUT_SECONDS = 2.0
_PRODUCT = "/sys/class/dmi/id/product_name"
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class StoppedError(RuntimeError):
    """The run was asked to stop and has saved a checkpoint; the same command resumes it."""


class CompleteError(ValueError):
    """The work directory has this very run, and it is finished."""


@contextlib.contextmanager
def interrupts(
    stop_after: float = 0.0, poll_seconds: float = POLL_SECONDS
) -> Iterator[Callable[[], str]]:
    """Yields a function without arguments that returns the reason to stop, or "".

    `stop_after` is in seconds from now; 0 is no limit. The first SIGINT or SIGTERM is a reason to
    stop. A second SIGINT ends the process at once with status 130, even during a TensorFlow call.
    A second SIGTERM has no effect, because launchers send several. Outside the main thread, where
    Python cannot handle signals, only the limit and the preemption notice are watched.
    """
    start = time.monotonic()
    reasons = []
    finished = threading.Event()

    def request_stop(reason):
        reasons.append(reason)
        if len(reasons) == 1:
            print(f"\nStopping after the current steps: {reason}", file=sys.stderr, flush=True)

    def stop():
        if stop_after and not reasons and time.monotonic() - start >= stop_after:
            request_stop(f"time limit {show_duration(stop_after)}")
        return reasons[0] if reasons else ""

    address = metadata_address()
    if address:
        threading.Thread(
            target=_watch, args=(address, request_stop, finished, poll_seconds), daemon=True
        ).start()
    try:
        with _signals(request_stop):
            yield stop
    finally:
        finished.set()


def parse_duration(text: str) -> float:
    """Seconds in ``11h``, ``90m``, ``2h30m``, ``1d``, ``45s`` or ``3600``.

    Raises ``ValueError`` for any other text, and for 0.

    >>> parse_duration("2h30m")
    9000.0
    """
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        number = r"(\d+(?:\.\d+)?)"
        match = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in _UNITS), text)
        amounts = match.groups() if match else ()
        seconds = sum(float(n) * s for n, s in zip(amounts, _UNITS.values()) if n)
    if not seconds:
        raise ValueError(
            f"{text!r} is not a duration: give e.g. 11h, 90m, 2h30m, or a number of seconds above 0"
        )
    return seconds


def show_duration(seconds: float) -> str:
    """Seconds as text that :func:`parse_duration` accepts.

    >>> show_duration(9000)
    '2h30m'
    """
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n:g}{u}" for n, u in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)


@contextlib.contextmanager
def _signals(request_stop):
    """Calls ``request_stop(name)`` on SIGINT and SIGTERM, from a separate thread.

    Python's handlers run only when the main thread returns from TensorFlow, which can take minutes;
    a wake-up descriptor receives the signal at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    thread = threading.Thread(
        target=_read_signals, args=(reader, numbers, request_stop), daemon=True
    )
    thread.start()
    before = {number: signal.signal(number, _ignore) for number in numbers}
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def _ignore(number, frame):
    """A handler that keeps the signal from ending the process; the thread handles it."""


def _read_signals(reader, numbers, request_stop):
    interrupts_received = 0
    for byte in iter(lambda: reader.recv(1), b""):
        number = byte[0]
        if number not in numbers:
            continue
        interrupts_received += number == signal.SIGINT
        if interrupts_received > 1:
            print("Ended immediately; the last checkpoint is kept", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGINT)
        request_stop(signal.Signals(number).name)
        if number == signal.SIGINT:
            print("Press Ctrl-C again to end immediately", file=sys.stderr, flush=True)


def metadata_address() -> str:
    """host[:port] of Google Cloud's metadata server, or "" on a machine outside Google Cloud.

    GCE_METADATA_HOST and GCE_METADATA_IP take precedence, as in Google's libraries.
    """
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        with open(_PRODUCT) as file:
            return METADATA if "Google" in file.read() else ""
    except OSError:
        return ""


def _watch(address, request_stop, finished, poll_seconds):
    """Polls the metadata server until it announces the end; gives up if the first request fails."""
    if _metadata(address, "preempted") is None:
        return
    while not finished.is_set():
        if _metadata(address, "preempted") == "TRUE":
            request_stop("preemption notice")
            return
        if (_metadata(address, "maintenance-event") or "").startswith("TERMINATE"):
            request_stop("maintenance notice")  # not for MIGRATE: a live migration keeps running
            return
        finished.wait(poll_seconds)


def _metadata(address, key):
    """The text of ``instance/<key>``, or None if the server does not return it."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_SECONDS)  # ignores proxies
    try:
        connection.request(
            "GET",
            f"/computeMetadata/v1/instance/{key}",
            headers={"Metadata-Flavor": "Google"},
        )
        response = connection.getresponse()
        text = response.read().decode(errors="replace").strip()
        return text if response.status == 200 and response.headers["Metadata-Flavor"] else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
