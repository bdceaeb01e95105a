import subprocess
import sys

import pytest

from tpu_train.folder_lock import check_unlocked, locked

_HOLDER = """
import sys
from tpu_train.folder_lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path):
    folder = str(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"locked\n"
    message = f"another process is writing to {folder}: wait until it has finished"
    with pytest.raises(ValueError, match=message), locked(folder):
        pass
    with pytest.raises(ValueError, match=message):
        check_unlocked(folder)
    holder.kill()
    holder.communicate()
    check_unlocked(folder)
    with locked(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_that_do_not_exist_or_are_remote_are_not_locked(tmp_path):
    check_unlocked(str(tmp_path / "none"))
    check_unlocked("gs://bucket/run")
    with locked("gs://bucket/run"), locked("gs://bucket/run"):
        pass
