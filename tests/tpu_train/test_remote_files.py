import hashlib
import os

import pytest

from tpu_train import remote_files


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    """A folder on the disk, and one that only tf.io.gfile knows."""
    if request.param == "local":
        return str(tmp_path)
    remote_files.tf.io.gfile.makedirs("ram://remote_files")
    return "ram://remote_files"


def test_files_are_replaced_and_read_back(folder):
    path = f"{folder}/x.bin"
    for content in (b"first", b"", bytes(range(256)) * 9000):
        remote_files.write_file(path, content)
        assert remote_files.read_file(path) == content
        assert remote_files.sha256(path) == hashlib.sha256(content).hexdigest()
    assert remote_files.GFILE.listdir(folder) == ["x.bin"]
    assert remote_files.GFILE.exists(path)
    assert remote_files.GFILE.size(path) == 256 * 9000


def test_two_hosts_may_write_the_same_file_at_once(folder, monkeypatch):
    path, rename = f"{folder}/x.bin", remote_files.tf.io.gfile.rename

    def rename_late(source, target, overwrite):
        monkeypatch.setattr(remote_files.tf.io.gfile, "rename", rename)
        remote_files.write_file(path, b"same")  # the other host
        rename(source, target, overwrite)

    monkeypatch.setattr(remote_files.tf.io.gfile, "rename", rename_late)
    remote_files.write_file(path, b"same")
    assert remote_files.read_file(path) == b"same"
    assert remote_files.GFILE.listdir(folder) == ["x.bin"]


def test_local_files_may_have_names_that_are_not_utf8(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9"))
    remote_files.write_file(path, b"x")
    assert remote_files.read_file(path) == b"x"
    assert remote_files.sha256(path) == hashlib.sha256(b"x").hexdigest()
    assert remote_files.GFILE.isfile(path)
    assert (remote_files.GFILE.exists(path), remote_files.GFILE.isdir(path)) == (True, False)
    assert (remote_files.GFILE.size(path), remote_files.GFILE.read(path, 1)) == (1, b"x")
    assert remote_files.GFILE.listdir(str(tmp_path)) == [os.path.basename(path)]


@pytest.mark.parametrize(
    ("path", "is_remote"), [("gs://bucket/x", True), ("/data/x", False), ("x", False)]
)
def test_paths_with_a_scheme_are_remote(path, is_remote):
    assert remote_files.is_remote(path) == is_remote


def test_folders_are_traversed_through_links_and_remotely(tmp_path, folder):
    remote_files.write_file(f"{folder}/x.bin", b"x")
    if folder == str(tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path)
    found = [(root, list(names)) for root, _, names in remote_files.GFILE.traverse(folder)]
    assert found == [(folder, ["x.bin"])]
