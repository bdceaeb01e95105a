import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading

import pytest

from keras_effnet.pretrained import download
from keras_effnet.pretrained.download import DownloadError, fetch, intact, unpack

CONTENT = bytes(range(256)) * 4000  # about 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    """Serves `body` under any path; `cut` ends the next responses early, `ranges` may be off."""

    daemon_threads = True

    def __init__(self):
        self.body, self.version, self.cut, self.ranges, self.status = CONTENT, '"1"', [], True, 200
        self.asked = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and server.ranges and self.headers.get("If-Range") == server.version:
            start = int(wanted[1])
        body = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.version)
        self.end_headers()
        self.wfile.write(body[: server.cut.pop(0)] if server.cut else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_downloaded_once_and_checked(server, tmp_path):
    path = fetch(f"{server.address}/w.h5", tmp_path / "cache" / "w.h5", md5=MD5)
    assert path.read_bytes() == CONTENT
    assert fetch(f"{server.address}/w.h5", path, md5=MD5) == path
    assert len(server.asked) == 1
    assert sorted(p.name for p in path.parent.iterdir() if ".lock" not in p.name) == ["w.h5"]


def test_an_interrupted_download_resumes(server, tmp_path):
    server.cut = [300_000, 200_000]
    assert fetch(f"{server.address}/w", tmp_path / "w", md5=MD5).read_bytes() == CONTENT
    assert [r for _, r in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_resumes_the_download(server, tmp_path):
    server.cut = [100_000] * download.ATTEMPTS
    with pytest.raises(
        DownloadError, match=r"ended after 300,000 of 1,024,000 bytes.*Try again to resume"
    ):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)
    assert not (tmp_path / "w").exists()
    assert fetch(f"{server.address}/w", tmp_path / "w", md5=MD5).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=300000-"


def test_a_changed_file_or_unresumable_download_restarts(server, tmp_path):
    server.cut = [100_000] * download.ATTEMPTS
    with pytest.raises(DownloadError):
        fetch(f"{server.address}/w", tmp_path / "w")
    server.version, server.body = '"2"', CONTENT[::-1]
    assert fetch(f"{server.address}/w", tmp_path / "w").read_bytes() == CONTENT[::-1]
    server.cut, server.ranges = [100_000], False
    assert fetch(f"{server.address}/v", tmp_path / "v").read_bytes() == CONTENT[::-1]


def test_a_wrong_file_is_rejected_with_both_hashes(server, tmp_path):
    server.body = b"<html>please log in</html>"
    have = hashlib.md5(server.body).hexdigest()
    with pytest.raises(DownloadError, match=f"{have}.*{MD5}"):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".lock"]


def test_a_modified_cache_file_is_rejected_with_both_hashes(server, tmp_path):
    for name, md5 in (("known", MD5), ("unknown", None)):
        path = fetch(f"{server.address}/{name}", tmp_path / name, md5=md5)
        path.write_bytes(b"tampered")
        kind = "md5" if md5 else "sha256"
        hashes = [hashlib.new(kind, data).hexdigest() for data in (b"tampered", CONTENT)]
        with pytest.raises(DownloadError, match=f"{hashes[0]}.*{hashes[1]}"):
            fetch(f"{server.address}/{name}", path, md5=md5)


def test_a_hash_is_recorded_if_none_is_published(server, tmp_path):
    path = fetch(f"{server.address}/w", tmp_path / "w")
    recorded = (tmp_path / "w.sha256").read_text().strip()
    assert recorded == hashlib.sha256(CONTENT).hexdigest()
    assert intact(path)
    path.write_bytes(b"x")
    assert not intact(path)
    assert not intact(tmp_path / "never")


def test_download_errors_say_where_to_put_the_file_by_hand(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match=f"404.*put that file at {tmp_path / 'w'} by hand"):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        DownloadError, match=r"could not be downloaded.*KERAS_EFFNET_MIRROR.*by hand"
    ):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)


def test_offline_uses_the_cache_and_requests_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFNET_OFFLINE", "1")
    with pytest.raises(DownloadError, match=f"KERAS_EFFNET_OFFLINE is set.*{tmp_path}.*{MD5}"):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)
    assert not server.asked
    (tmp_path / "w").write_bytes(CONTENT)
    assert fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)


def test_a_mirror_replaces_the_publishers_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFNET_MIRROR", f"{server.address}/inside/")
    fetch("https://storage.googleapis.com/keras-applications/x.h5", tmp_path / "w", md5=MD5)
    assert server.asked == [("/inside/keras-applications/x.h5", None)]


def test_an_unwritable_cache_is_an_error(server, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "FileLock", refuse)
    with pytest.raises(DownloadError, match=r"cannot be written to.*KERAS_HOME"):
        fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)
    (tmp_path / "w").write_bytes(CONTENT)  # an existing file can be read
    assert fetch(f"{server.address}/w", tmp_path / "w", md5=MD5)


def test_parallel_processes_download_a_file_once(server, tmp_path):
    script = (
        "import sys; from keras_effnet.pretrained.download import fetch;"
        f"fetch('{server.address}/w', sys.argv[1], md5='{MD5}')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "w")]) for _ in range(3)
    ]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert len(server.asked) == 1
    assert (tmp_path / "w").read_bytes() == CONTENT


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, change, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in change.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_archives_are_unpacked_with_folders(tmp_path):
    folder = {"type": tarfile.DIRTYPE}
    path = _tar(tmp_path / "x.tgz", ("b0", folder, b""), ("b0/model.ckpt.index", {}, b"abc"))
    unpack(path, tmp_path / "out", limit=100)
    assert (tmp_path / "out" / "b0" / "model.ckpt.index").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("/etc/passwd", {}, "leads out"),
        ("../out.txt", {}, "leads out"),
        ("a/../../out.txt", {}, "leads out"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, "a link or a device"),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "fine"}, "a link or a device"),
        ("pipe", {"type": tarfile.FIFOTYPE}, "a link or a device"),
        ("bomb", {}, "more than 1,000 bytes"),
    ],
)
def test_a_malicious_archive_is_refused_before_anything_is_written(tmp_path, name, change, message):
    data = b"0" * 5000 if name == "bomb" else b""
    path = _tar(tmp_path / "x.tgz", ("fine", {}, b"fine"), (name, change, data))
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=message):
        unpack(path, tmp_path / "in" / "out", limit=1000)
    assert not any((tmp_path / "in").rglob("*"))
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_archives_are_rejected(tmp_path, damage):
    path = _tar(tmp_path / "x.tgz", ("a", {}, os.urandom(5000)))
    path.write_bytes(path.read_bytes()[:2000] if damage == "cut" else b"<html>")
    with pytest.raises(ValueError, match="not a complete tar archive"):
        unpack(path, tmp_path / "out", limit=10_000)
