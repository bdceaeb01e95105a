"""Files from the network into Keras's cache: resumed, checked before use, fetched once however many
processes ask. And archives, unpacked without trust.

Environment:
    KERAS_HOME: where the cache is (``~/.keras`` by default; files go to ``models/`` in it).
    KERAS_EFFNET_MIRROR: an address that stands for ``https://storage.googleapis.com``.
    KERAS_EFFNET_OFFLINE: if set (and not "0"), nothing is fetched: what is missing is an error that
        says which file to put where.
"""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

from filelock import FileLock
from tqdm import tqdm

ATTEMPTS = 3  # of one download; each goes on where the last was cut
TIMEOUT = 30  # seconds without a byte
LOCK_TIMEOUT = 4 * 3600  # seconds to wait for another process that downloads the same file
_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file that could not be had, or is not what was published."""


def cache_folder():
    """The folder of downloaded weights, Keras's own: ``~/.keras/models``."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return pathlib.Path(home) / "models"


def fetch(url, path, *, md5=None):
    """The file of `url` at `path`, downloaded if it is not there, and checked in any case.

    With `md5` the file's must be that. Without, its sha256 is recorded in ``<path>.sha256`` at the
    first download, and must be that ever after. Raises :class:`DownloadError` when the file cannot
    be had, naming where to put it by hand, or is another one, naming both hashes.
    """
    path = pathlib.Path(path)
    if path.is_file():  # no lock: a cache that cannot be written to is fine to read
        _check(path, md5, url)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT)
        with lock:
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(url, path, md5)
    except PermissionError as error:
        raise DownloadError(
            f"{path.parent} cannot be written to ({error}). Set KERAS_HOME to a folder that can be,"
            f" or put {path.name} of {url} there by hand"
        ) from error
    _check(path, md5, url)
    return path


def record(path):
    """Writes a file's sha256 beside it, for :func:`fetch` and :func:`intact` to compare with."""
    digest = _digest(path, "sha256")
    temporary = pathlib.Path(f"{path}.sha256.{os.getpid()}")
    temporary.write_text(digest + "\n")
    os.replace(temporary, f"{path}.sha256")


def intact(path):
    """Whether a file is there, with the sha256 that was recorded for it."""
    recorded = _recorded(path)
    return path.is_file() and recorded is not None and _digest(path, "sha256") == recorded


def unpack(archive, folder, *, limit):
    """Unpacks the plain files of a tar archive into an empty folder, `limit` bytes at the most.

    Nothing is trusted: a path that leads out of the folder, a link, a device, or more bytes than
    the limit (a bomb) raises ``ValueError`` before the first file is written.
    """
    folder = pathlib.Path(folder).resolve()
    try:
        with tarfile.open(archive) as tar:
            members = []
            total = 0
            for member in tar:  # reads headers only; a bomb's are small
                if member.isdir():
                    continue
                target = (folder / member.name).resolve()
                if not member.isfile():
                    raise ValueError(f"{archive} has {member.name!r}, a link or a device: refused")
                if os.path.isabs(member.name) or folder not in target.parents:
                    raise ValueError(
                        f"{archive} has {member.name!r}, which leads out of its folder: refused"
                    )
                total += member.size
                if total > limit or len(members) >= 1000:
                    raise ValueError(
                        f"{archive} unpacks to more than {limit:,} bytes or 1,000 files, which no "
                        "checkpoint of this network does: refused"
                    )
                members.append((member, target))
            for member, target in members:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(
            f"{archive} is not a whole tar archive (truncated, or of another format): {error}"
        ) from error


def _check(path, md5, url):
    kind, want = ("md5", md5) if md5 else ("sha256", _recorded(path))
    if want is None:  # put there by hand, or before hashes were recorded
        with contextlib.suppress(OSError):
            record(path)
        return
    have = _digest(path, kind)
    if have != want:
        raise DownloadError(
            f"{path} is not what {url} was: its {kind} is {have}, and {want} was "
            f"{'published' if md5 else 'recorded at the first download'}. Delete it and try again"
        )


def _recorded(path):
    try:
        return pathlib.Path(f"{path}.sha256").read_text().strip()
    except FileNotFoundError:
        return None


def _digest(path, kind):
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url, path, md5):
    """Fills ``<path>.part``, checks it, and renames it to `path`."""
    source = _mirrored(url)
    by_hand = f"Or put that file at {path} by hand" + (f" (md5 {md5})" if md5 else "")
    if os.environ.get("KERAS_EFFNET_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"{url} is needed and KERAS_EFFNET_OFFLINE is set: unset it. {by_hand}")
    part = pathlib.Path(f"{path}.part")
    for attempt in range(ATTEMPTS):
        resumed = part.exists()
        try:
            _receive(source, part, path.name)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and resumed:  # more there than the server has: it has changed
                _forget(part)
                continue
            raise DownloadError(
                f"{source} answers {error.code} {error.reason}. {by_hand}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise DownloadError(
                    f"{source} could not be downloaded: {error}. Try again (it goes on where it "
                    "was cut), or set KERAS_EFFNET_MIRROR to an address that can be reached. "
                    + by_hand
                ) from error
            time.sleep(2**attempt)
    if md5:
        have = _digest(part, "md5")
        if have != md5:
            _forget(part)
            raise DownloadError(
                f"{source} is not the published file: its md5 is {have}, and {md5} was published. "
                "It was deleted; try again, or another network (some answer with a page of their "
                f"own). {by_hand}"
            )
    os.replace(part, path)
    _forget(part)
    if not md5:
        record(path)


def _receive(source, part, name):
    """Appends what is missing to a part; raises OSError when the connection ends too early."""
    state = pathlib.Path(f"{part}.json")  # which version of the file the part is of
    request = urllib.request.Request(source)
    start = 0
    if part.exists() and state.exists():
        start = part.stat().st_size
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", json.loads(state.read_text())["version"])
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        start = start if answer.status == 206 else 0  # 200: no resuming here, or another version
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if version and not version.startswith("W/"):
            state.write_text(json.dumps({"version": version}))
        else:
            state.unlink(missing_ok=True)
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(
                desc=name,
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                disable=None,
                leave=False,
            ) as bar,
        ):
            received = start
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received:,} of {total:,} bytes")


def _forget(part):
    for path in (part, pathlib.Path(f"{part}.json")):
        path.unlink(missing_ok=True)


def _mirrored(url):
    mirror = os.environ.get("KERAS_EFFNET_MIRROR")
    if not mirror:
        return url
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


@contextlib.contextmanager
def temporary_beside(path):
    """A new empty folder on the disk of `path`, gone afterwards: rename out of it what is whole."""
    folder = tempfile.mkdtemp(prefix=".unpacking-", dir=pathlib.Path(path).parent)
    try:
        yield pathlib.Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
