"""Why a run should stop: a signal, a wall-clock limit, the cloud's preemption notice.

::

    with interrupts(stop_after=parse_duration("11h")) as stop:
        train(..., stop=stop)   # stop() gives "SIGTERM", "11h are over", "preemption notice" or ""
"""

import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import threading
import time

METADATA = "169.254.169.254"  # metadata.google.internal, without a name to look up
POLL_SECONDS = 5.0  # a preempted machine has 30 s
_TIMEOUT_SECONDS = 2.0
_PRODUCT = "/sys/class/dmi/id/product_name"
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@contextlib.contextmanager
def interrupts(stop_after=0.0, poll_seconds=POLL_SECONDS):
    """Yields a function without arguments: why the run should stop, or "" while it should not.

    `stop_after` are seconds from now, 0 for any time. A first SIGINT or SIGTERM is a reason to
    stop; a second SIGINT ends the process at once with status 130, also while TensorFlow computes.
    A second SIGTERM changes nothing: launchers send several. Outside the main thread, where Python
    takes no signals, the limit and the notice alone are watched.
    """
    began = time.monotonic()
    reasons = []
    over = threading.Event()

    def ask(reason):
        reasons.append(reason)
        if len(reasons) == 1:
            print(f"\nStopping after the running steps: {reason}", file=sys.stderr, flush=True)

    def stop():
        if stop_after and not reasons and time.monotonic() - began >= stop_after:
            ask(f"{show_duration(stop_after)} are over")
        return reasons[0] if reasons else ""

    address = metadata_address()
    if address:
        threading.Thread(
            target=_watch, args=(address, ask, over, poll_seconds), daemon=True
        ).start()
    try:
        with _signals(ask):
            yield stop
    finally:
        over.set()


def parse_duration(text):
    """Seconds of ``11h``, ``90m``, ``2h30m``, ``1d``, ``45s`` or ``3600``; ``ValueError`` for else.

    >>> parse_duration("2h30m")
    9000.0
    """
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        number = r"(\d+(?:\.\d+)?)"
        match = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in _UNITS), text)
        parts = match.groups() if match else ()
        seconds = sum(float(n) * s for n, s in zip(parts, _UNITS.values()) if n)
    if not seconds:
        raise ValueError(
            f"{text!r} is no time: give e.g. 11h, 90m, 2h30m, or a number of seconds, above 0"
        )
    return seconds


def show_duration(seconds):
    """Seconds as :func:`parse_duration` takes them.

    >>> show_duration(9000)
    '2h30m'
    """
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n:g}{u}" for n, u in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)


@contextlib.contextmanager
def _signals(ask):
    """Calls ``ask(name)`` on SIGINT and SIGTERM, from a thread of its own.

    Python's handlers wait until the main thread leaves TensorFlow, which a host call of many steps
    makes minutes; the bytes of a wake-up descriptor do not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    thread = threading.Thread(target=_hear, args=(reader, numbers, ask), daemon=True)
    thread.start()
    before = {number: signal.signal(number, _nothing) for number in numbers}
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


def _nothing(number, frame):
    """A handler, so that the signal does not end the process: the thread acts."""


def _hear(reader, numbers, ask):
    presses = 0
    for byte in iter(lambda: reader.recv(1), b""):
        number = byte[0]
        if number not in numbers:
            continue
        presses += number == signal.SIGINT
        if presses > 1:
            print("Ended at once; the last checkpoint is kept", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGINT)
        ask(signal.Signals(number).name)
        if number == signal.SIGINT:
            print("Ctrl-C once more to end at once", file=sys.stderr, flush=True)


def metadata_address():
    """host[:port] of Google Cloud's metadata server, or "" on a machine that is not there.

    The environment's GCE_METADATA_HOST or GCE_METADATA_IP comes first, as in Google's libraries.
    """
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        with open(_PRODUCT) as file:
            return METADATA if "Google" in file.read() else ""
    except OSError:
        return ""


def _watch(address, ask, over, poll_seconds):
    """Asks the metadata server until it gives notice; ends when it does not answer at first."""
    if _metadata(address, "preempted") is None:
        return
    while not over.is_set():
        if _metadata(address, "preempted") == "TRUE":
            ask("preemption notice")
            return
        if (_metadata(address, "maintenance-event") or "").startswith("TERMINATE"):
            ask("maintenance notice")  # MIGRATE is no reason: the machine goes on elsewhere
            return
        over.wait(poll_seconds)


def _metadata(address, what):
    """The text of ``instance/<what>``, or None when the server does not give it."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_SECONDS)  # past any proxy
    try:
        connection.request(
            "GET",
            f"/computeMetadata/v1/instance/{what}",
            headers={"Metadata-Flavor": "Google"},
        )
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
        return text if answer.status == 200 and answer.headers["Metadata-Flavor"] else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
