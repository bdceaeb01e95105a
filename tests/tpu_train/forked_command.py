"""Commands in separate processes without the import of TensorFlow (5 processor seconds).

A server imports TensorFlow and the trainer once, and forks for each command. It computes nothing:
TensorFlow does not survive a fork after its first computation.
"""

import fnmatch
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile

import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "tpu_train.training.run", "tpu_train.cli.train"])


class ForkedCommand:
    """A process that runs ``main(words)``, with the methods of subprocess.Popen.

    `environment` is added to that of the server. The process kills itself (kill -9) just before a
    temporary file is renamed to a path that matches `kill_before`.
    """

    def __init__(self, main, words, *, environment=None, kill_before=""):
        reader, writer = _CONTEXT.Pipe(duplex=False)
        arguments = main, list(map(str, words)), environment or {}, kill_before, writer
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        with pytest.MonkeyPatch.context() as patch:
            # Of the server, which the first command starts.
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
            self._process.start()
        writer.close()
        self.stderr = os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")
        reader.close()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def wait(self, timeout=None):
        self._process.join(timeout)
        assert self.returncode is not None, f"the process did not end within {timeout} s"
        return self.returncode

    def communicate(self):
        """(None, all that it writes to stderr until its end)."""
        with self.stderr:
            written = self.stderr.read()
        self.wait()
        return None, written


def _run(main, words, environment, kill_before, writer):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(writer.fileno(), 2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may have changed
    os.chdir(ROOT)
    if kill_before:
        _kill_before(kill_before)
    sys.exit(main(words))


def _kill_before(pattern):
    """Kills this process before os or tf.io.gfile renames a file to a path that matches."""
    rename = tf.io.gfile.rename

    def check(path):
        if fnmatch.fnmatch(os.fspath(path), pattern):
            os.kill(os.getpid(), signal.SIGKILL)

    def checked_rename(source, path, **options):
        check(path)
        rename(source, path, **options)

    tf.io.gfile.rename = checked_rename
    sys.addaudithook(lambda event, arguments: event == "os.rename" and check(arguments[1]))
