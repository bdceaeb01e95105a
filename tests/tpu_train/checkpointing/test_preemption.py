import http.server
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from tpu_train.checkpointing import preemption as module
from tpu_train.checkpointing.preemption import (
    interrupts,
    metadata_address,
    parse_duration,
    show_duration,
)

ROOT = pathlib.Path(__file__).parents[3]
POLL = 0.01


@pytest.fixture(autouse=True)
def _off_cloud(monkeypatch, tmp_path):
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_PRODUCT", str(tmp_path / "product_name"))


# The time limit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("11h", 39600),
        ("90m", 5400),
        ("2h30m", 9000),
        ("45s", 45),
        ("1d", 86400),
        ("1h0m5s", 3605),
        ("1.5h", 5400),
        ("3600", 3600),
        (" 0.5 ", 0.5),
    ],
)
def test_durations_are_parsed(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "11 h", "0", "0h", "-1h", "11x", "30m2h", "nan"])
def test_other_text_is_an_error_with_examples(text):
    with pytest.raises(ValueError, match=r"is not a duration: give e\.g\. 11h, 90m, 2h30m"):
        parse_duration(text)


def test_a_duration_is_shown_as_it_is_parsed():
    for text in ("11h", "2h30m", "45s", "1h5s", "0.5s"):
        assert show_duration(parse_duration(text)) == text


def test_the_time_limit_stops_the_run_and_is_printed_once(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with interrupts(stop_after=9000) as stop:
        now[0] += 8999
        assert stop() == ""
        now[0] += 1
        assert stop() == "time limit 2h30m"
        assert stop() == "time limit 2h30m"
    assert capsys.readouterr().err.count("Stopping after the current steps: time limit 2h30m") == 1


def test_without_a_time_limit_there_is_no_reason(monkeypatch):
    with interrupts() as stop:
        monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
        assert stop() == ""


# Signals, in a separate process

_PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tpu_train.checkpointing.preemption import interrupts
with interrupts() as stop:
    print("ready", flush=True)
    {wait}
print("saved after", stop(), flush=True)
"""
_WAIT = "import time\n    while not stop(): time.sleep(0.01)"


def _start(wait):
    program = _PROGRAM.format(root=str(ROOT), wait=wait)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigint_and_sigterm_are_reasons_to_stop(number):
    process = _start(_WAIT)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert out == f"saved after {number.name}\n"
    assert f"Stopping after the current steps: {number.name}" in err
    assert process.returncode == 0


def test_a_second_sigterm_has_no_effect():
    process = _start(_WAIT + "\n    sys.stdin.readline()")
    process.send_signal(signal.SIGTERM)
    assert [process.stderr.readline() for _ in range(2)][1].endswith("SIGTERM\n")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate("continue\n", timeout=120)
    assert (out, process.returncode) == ("saved after SIGTERM\n", 0)


def test_a_second_ctrl_c_ends_a_computing_process_at_once():
    process = _start("import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 1_000_000_000)")
    process.send_signal(signal.SIGINT)
    lines = [process.stderr.readline() for _ in range(3)]
    assert "Stopping after the current steps: SIGINT" in lines[1]
    assert "Ctrl-C again" in lines[2]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (out, process.returncode) == ("", 130)
    assert "Ended immediately" in err


def test_previous_signal_handlers_are_restored():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    with interrupts() as stop:
        assert signal.getsignal(signal.SIGINT) is not before[0]
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop() == "SIGTERM"  # although nothing has asked since
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_outside_the_main_thread_only_the_time_limit_works():
    reasons = []

    def run():
        with interrupts(stop_after=1e-9) as stop:
            reasons.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["time limit 1e-09s"]


# The cloud's preemption notice


class Metadata(http.server.ThreadingHTTPServer):
    """A local copy of Google's metadata server; `values` can be changed while it runs."""

    def __init__(self):
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.flavor = "Google"
        self.requests = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        key = self.path.split("/computeMetadata/v1/instance/", 1)[-1]
        known = self.headers["Metadata-Flavor"] == "Google" and key in self.server.values
        self.send_response(200 if known else 403)
        if self.server.flavor:
            self.send_header("Metadata-Flavor", self.server.flavor)
        self.end_headers()
        self.wfile.write(self.server.values.get(key, "").encode())
        self.server.requests.release()

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata(monkeypatch):
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _until(stop, server):
    for _ in range(1000):
        if stop():
            break
        server.requests.acquire(timeout=POLL)
    return stop()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("preempted", "TRUE", "preemption notice"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "maintenance notice"),
    ],
)
def test_a_notice_is_a_reason_to_stop(metadata, key, value, reason):
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(6):
            assert metadata.requests.acquire(timeout=60)
        assert stop() == ""
        metadata.values[key] = value
        assert _until(stop, metadata) == reason


def test_a_live_migration_is_not_a_reason_to_stop(metadata):
    metadata.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(9):
            assert metadata.requests.acquire(timeout=60)
        assert stop() == ""


def test_a_failing_metadata_server_is_polled_again(metadata):
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(6):
            assert metadata.requests.acquire(timeout=60)
        del metadata.values["preempted"]  # 403
        for _ in range(9):
            assert metadata.requests.acquire(timeout=60)
        metadata.values["preempted"] = "TRUE"
        assert _until(stop, metadata) == "preemption notice"


def test_a_server_without_googles_header_is_ignored(metadata):
    metadata.flavor = None
    metadata.values["preempted"] = "TRUE"
    reasons = []
    module._watch(metadata_address(), reasons.append, threading.Event(), POLL)
    assert not reasons


def test_an_unreachable_metadata_server_is_not_polled(metadata, monkeypatch):
    metadata.shutdown()
    metadata.server_close()
    reasons = []
    module._watch(metadata_address(), reasons.append, threading.Event(), POLL)
    assert not reasons


def test_only_google_machines_have_a_metadata_address(monkeypatch, tmp_path):
    assert metadata_address() == ""  # no such file
    (tmp_path / "product_name").write_text("Standard PC\n")
    assert metadata_address() == ""
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert metadata_address() == "169.254.169.254"
    monkeypatch.setenv("GCE_METADATA_IP", "10.0.0.1")
    assert metadata_address() == "10.0.0.1"
