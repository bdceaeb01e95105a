import json
import signal
import socket
import subprocess
import sys

import pytest

from tpu_train.training.worker_wait import wait_for_workers

_WAITING = """
import sys
from tpu_train.training import worker_wait
worker_wait.REPORT_SECONDS = 0.1
worker_wait.wait_for_workers(sys.argv[1])
print("started")
"""


@pytest.fixture
def ports():
    """Two ports that nothing listens on."""
    with socket.socket() as one, socket.socket() as other:
        for opened in (one, other):
            opened.bind(("localhost", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _config(ports, index):
    workers = [f"localhost:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def _start(ports, index):
    return subprocess.Popen(
        [sys.executable, "-c", _WAITING, _config(ports, index)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_worker_names_the_others_and_obeys_signals(ports, number):
    process = _start(ports, 0)
    line = process.stderr.readline()
    assert f"waiting for worker 1 (localhost:{ports[1]}): start the same command" in line
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (-number, "")


def test_workers_that_see_each_other_start(ports):
    first = _start(ports, 0)
    assert "waiting for worker 1" in first.stderr.readline()
    with socket.create_server(("localhost", ports[1])):  # as TensorFlow's server
        assert first.communicate(timeout=10)[0] == "started\n"


def test_a_waiting_worker_listens_on_its_port(ports):
    first = _start(ports, 0)
    first.stderr.readline()
    wait_for_workers(_config(ports, 1))  # returns, because the first answers
    first.kill()
    first.communicate()


def test_a_waiting_worker_gives_up_after_a_time(ports):
    with pytest.raises(ValueError, match=r"gave up after waiting 0[.]1 s for worker 1"):
        wait_for_workers(_config(ports, 0), 0.1)


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}}', '{"cluster": {"worker": []}}'])
def test_a_machine_alone_waits_for_nobody(text):
    wait_for_workers(text)
