"""Runs ``effnet-train`` on small parts, and kills it (kill -9) at a fixed moment.

    python -m tests.tpu_train.noisy_student.killed_command PATTERN FLAGS...

The moment is just before a temporary file is renamed to a path that matches the pattern.
"""

import fnmatch
import os
import signal
import sys

CHUNK, IMAGES_PER_SHARD = 16, 12  # several parts of few images


def kill_before(pattern):
    """Kills this process before a file gets a name that matches."""

    def hook(event, arguments):
        if event == "os.rename" and fnmatch.fnmatch(os.fspath(arguments[1]), pattern):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    from tpu_train.cli import main
    from tpu_train.noisy_student import pseudo_labels, score_chunks

    score_chunks.CHUNK, pseudo_labels.IMAGES_PER_SHARD = CHUNK, IMAGES_PER_SHARD
    kill_before(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
