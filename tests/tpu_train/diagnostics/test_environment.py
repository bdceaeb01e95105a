import importlib.metadata
import re
import socket
import sys

import pytest

from tests.tpu_train.diagnostics.environments import finding_of, tf_config
from tpu_train.diagnostics import environment
from tpu_train.diagnostics.finding import PROBLEM


def test_a_worker_port_in_use_is_detected():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        taken = environment._port_error(tf_config([f"localhost:{port}", "b:1"]))
    assert "in use" in taken
    assert (
        finding_of("workers", variables={"TF_CONFIG": tf_config()}, port_error=taken).level
        == PROBLEM
    )
    assert environment._port_error(tf_config([f"localhost:{port}", "b:1"])) == ""


def test_a_work_directory_is_probed_without_creating_it(tmp_path):
    path = str(tmp_path / "not" / "yet")
    folder = environment._folder(path)
    assert folder.free_bytes > 0
    assert not folder.error
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert environment._folder(str(tmp_path / "file" / "run")).error
    assert (
        finding_of("workdir", folder=environment._folder(str(tmp_path / "file"))).level == PROBLEM
    )


@pytest.fixture
def fake_tensorflow(tmp_path, monkeypatch):
    """Makes `import tensorflow` in a child run these lines."""

    def write(lines):
        folder = tmp_path / "path" / "tensorflow"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(lines)
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    return write


@pytest.mark.parametrize(
    ("lines", "timeout", "error"),
    [
        ("raise ImportError('libfoo.so is missing')", 60, "ImportError: libfoo.so is missing"),
        ("import os; os.kill(os.getpid(), 4)", 60, "killed by SIGILL"),
        ("import time; time.sleep(60)", 0.2, "timed out after 0.2 s"),
    ],
)
def test_a_broken_tensorflow_breaks_only_the_child(
    fake_tensorflow, monkeypatch, lines, timeout, error
):
    monkeypatch.setattr(environment, "IMPORT_TIMEOUT", timeout)
    fake_tensorflow(lines)
    imported = environment._import("")
    assert error in imported.error
    assert "import" in imported.doing


@pytest.mark.slow
def test_the_child_writes_to_a_remote_work_directory(monkeypatch, capsys):
    imported = environment._import("ram://run")
    assert imported.error == ""
    assert imported.workdir == ""
    assert imported.tpu_kernels is False
    assert imported.tensorflow == importlib.metadata.version("tensorflow")
    monkeypatch.setattr(sys, "path", ["folder of the file", *sys.path])
    environment._child("nowhere://run")
    *_, workdir = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'effnet-train doctor: {"workdir": ".*scheme.*"}', workdir)
