import dataclasses
import glob
import importlib.util
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("optuna")

from tests.tpu_train.search import fake_search
from tests.tpu_train.search.fake_search import make_request, search

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Server:
    """A PostgreSQL server on a free port of loopback, with its data in a new folder."""

    def __init__(self, programs, folder):
        self._programs, self._folder = programs, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync")

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        log = f"--log={self._folder}/log"
        self._run("pg_ctl", "start", "--wait", log, f"--options={options}")

    def stop(self):
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def _run(self, program, *arguments):
        command = [os.path.join(self._programs, program), f"--pgdata={self._folder}/data"]
        if os.getuid() == 0:  # the server refuses to run as root
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture
def server():
    """A server that runs, or a skipped test."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb") or [shutil.which("initdb")]
    if not found[-1]:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if not importlib.util.find_spec("psycopg"):
        pytest.skip("psycopg is not installed: pip install 'psycopg[binary]'")
    folder = pathlib.Path("/tmp") / f"postgresql-test-{os.getpid()}"  # short: it has a socket
    folder.mkdir(mode=0o700)
    try:
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Server(os.path.dirname(found[-1]), folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_workers_wait_for_a_database_that_is_restarted(server, tmp_path):
    request = make_request(tmp_path / "alone", trials=10, sampler="tpe", phases=2)
    search(request)
    together = tmp_path / "together"
    command = [sys.executable, "-m", fake_search.__name__, str(together), server.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(2)]
    while len(list(together.glob("trials/*/.trained"))) < 3:
        time.sleep(0.02)
        assert all(p.poll() is None for p in processes)
    server.stop()
    time.sleep(1)
    server.start()
    try:
        assert [p.wait(300) for p in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    tables = [(folder / "leaderboard.csv").read_text() for folder in (tmp_path / "alone", together)]
    assert tables[0] == tables[1]
    assert {p.read_text() for p in together.glob("trials/*/.trained")} == {"1 2 "}
    # another workdir, whose checkpoints these workers would not have
    elsewhere = dataclasses.replace(request, workdir=str(tmp_path / "c"), storage=server.url)
    with pytest.raises(ValueError, match="belongs to another workdir"):
        search(elsewhere)
