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


# The limit


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
def test_a_time_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "11 h", "0", "0h", "-1h", "11x", "30m2h", "nan"])
def test_what_is_no_time_says_what_is(text):
    with pytest.raises(ValueError, match=r"is no time: give e\.g\. 11h, 90m, 2h30m"):
        parse_duration(text)


def test_a_time_is_shown_as_it_is_read():
    for text in ("11h", "2h30m", "45s", "1h5s", "0.5s"):
        assert show_duration(parse_duration(text)) == text


def test_a_limit_is_a_reason_when_it_is_over_and_is_said_once(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with interrupts(stop_after=9000) as stop:
        now[0] += 8999
        assert stop() == ""
        now[0] += 1
        assert stop() == "2h30m are over"
        assert stop() == "2h30m are over"
    assert capsys.readouterr().err.count("Stopping after the running steps: 2h30m are over") == 1


def test_without_a_limit_there_is_no_reason(monkeypatch):
    with interrupts() as stop:
        monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
        assert stop() == ""


# Signals, in a process of their own

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
def test_a_signal_is_a_reason_to_stop(number):
    process = _start(_WAIT)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert out == f"saved after {number.name}\n"
    assert f"Stopping after the running steps: {number.name}" in err
    assert process.returncode == 0


def test_a_second_sigterm_changes_nothing():
    process = _start(_WAIT + "\n    sys.stdin.readline()")
    process.send_signal(signal.SIGTERM)
    assert [process.stderr.readline() for _ in range(2)][1].endswith("SIGTERM\n")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate("go on\n", timeout=120)
    assert (out, process.returncode) == ("saved after SIGTERM\n", 0)


def test_ctrl_c_is_told_and_a_second_one_ends_the_process_while_it_computes():
    process = _start("import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 1_000_000_000)")
    process.send_signal(signal.SIGINT)
    told = [process.stderr.readline() for _ in range(3)]
    assert "Stopping after the running steps: SIGINT" in told[1]
    assert "once more" in told[2]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (out, process.returncode) == ("", 130)
    assert "Ended at once" in err


def test_what_was_there_before_is_there_again():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    with interrupts() as stop:
        assert signal.getsignal(signal.SIGINT) is not before[0]
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop() == "SIGTERM"  # also of one that came last of all
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_outside_the_main_thread_there_are_no_signals_but_the_limit():
    reasons = []

    def run():
        with interrupts(stop_after=1e-9) as stop:
            reasons.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["1e-09s are over"]


# The cloud's notice


class Metadata(http.server.ThreadingHTTPServer):
    """Answers as Google's metadata server does; `answers` can be changed while it runs."""

    def __init__(self):
        self.answers = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.flavor = "Google"
        self.asked = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what = self.path.split("/computeMetadata/v1/instance/", 1)[-1]
        known = self.headers["Metadata-Flavor"] == "Google" and what in self.server.answers
        self.send_response(200 if known else 403)
        if self.server.flavor:
            self.send_header("Metadata-Flavor", self.server.flavor)
        self.end_headers()
        self.wfile.write(self.server.answers.get(what, "").encode())
        self.server.asked.release()

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
        server.asked.acquire(timeout=POLL)
    return stop()


@pytest.mark.parametrize(
    ("what", "answer", "reason"),
    [
        ("preempted", "TRUE", "preemption notice"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "maintenance notice"),
    ],
)
def test_a_notice_is_a_reason_when_it_comes(metadata, what, answer, reason):
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(6):
            assert metadata.asked.acquire(timeout=60)
        assert stop() == ""
        metadata.answers[what] = answer
        assert _until(stop, metadata) == reason


def test_a_machine_that_moves_elsewhere_goes_on(metadata):
    metadata.answers["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(9):
            assert metadata.asked.acquire(timeout=60)
        assert stop() == ""


def test_a_server_that_fails_for_a_while_is_asked_again(metadata):
    with interrupts(poll_seconds=POLL) as stop:
        for _ in range(6):
            assert metadata.asked.acquire(timeout=60)
        del metadata.answers["preempted"]  # 403
        for _ in range(9):
            assert metadata.asked.acquire(timeout=60)
        metadata.answers["preempted"] = "TRUE"
        assert _until(stop, metadata) == "preemption notice"


def test_a_server_of_someone_else_is_not_believed(metadata):
    metadata.flavor = None
    metadata.answers["preempted"] = "TRUE"
    said = []
    module._watch(metadata_address(), said.append, threading.Event(), POLL)
    assert not said


def test_where_no_server_answers_nothing_is_watched(metadata, monkeypatch):
    metadata.shutdown()
    metadata.server_close()
    said = []
    module._watch(metadata_address(), said.append, threading.Event(), POLL)
    assert not said


def test_the_server_is_looked_for_on_google_machines_alone(monkeypatch, tmp_path):
    assert metadata_address() == ""  # no such file
    (tmp_path / "product_name").write_text("Standard PC\n")
    assert metadata_address() == ""
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert metadata_address() == "169.254.169.254"
    monkeypatch.setenv("GCE_METADATA_IP", "10.0.0.1")
    assert metadata_address() == "10.0.0.1"
