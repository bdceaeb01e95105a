"""Downloads files into Keras's cache, and unpacks archives safely.

Downloads resume after an interruption, are checked before use, and happen once however many
processes ask for a file.

Environment:
    KERAS_HOME: the cache (default: ``~/.keras``); files go to its ``models/``.
    KERAS_EFFNET_MIRROR: an address that replaces ``https://storage.googleapis.com``.
    KERAS_EFFNET_OFFLINE: if set (and not "0"), nothing is downloaded: a missing file is an error
        that says where to put it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

from filelock import FileLock
from tqdm import tqdm

from keras_effnet.atomic_write import write_files

ATTEMPTS = 3  # of one download; each resumes where the previous one stopped
TIMEOUT = 30  # seconds without data
LOCK_TIMEOUT = 4 * 3600  # seconds to wait for a process that downloads the same file
_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file is unavailable, or is not the published one."""


def cache_folder() -> pathlib.Path:
    """The folder of downloaded weights, the same as Keras's: ``~/.keras/models``."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return pathlib.Path(home) / "models"


def fetch(url: str, path: str | os.PathLike[str], *, md5: str | None = None) -> pathlib.Path:
    """The local `path` of `url`, downloaded if it does not exist, and always checked.

    With `md5`, the file must have that hash. Without, the sha256 of the first download is recorded
    in ``<path>.sha256``, and later uses must match it. Raises :class:`DownloadError` for a file
    that is unavailable, saying where to put it by hand, and for a wrong file, with both hashes.
    """
    path = pathlib.Path(path)
    if path.is_file():  # no lock: a read-only cache can be read
        _check(path, md5, url)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT)
        with lock:
            if not path.is_file():  # another process may have downloaded it meanwhile
                _download(url, path, md5)
    except PermissionError as error:
        raise DownloadError(
            f"{path.parent} cannot be written to ({error}). Set KERAS_HOME to a writable folder, "
            f"or put {path.name} from {url} there by hand"
        ) from error
    _check(path, md5, url)
    return path


def record(path: str | os.PathLike[str]) -> None:
    """Writes a file's sha256 beside it, for :func:`fetch` and :func:`intact` to compare with."""
    write_files({f"{os.fspath(path)}.sha256": f"{_digest(path, 'sha256')}\n".encode()})


def intact(path: pathlib.Path) -> bool:
    """Whether a file exists and has the sha256 that was recorded for it."""
    recorded = _recorded(path)
    return path.is_file() and recorded is not None and _digest(path, "sha256") == recorded


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, limit: int) -> None:
    """Unpacks the plain files of a tar archive into an empty folder, at most `limit` bytes.

    The archive is untrusted: a path outside the folder, a link, a device, or more bytes than the
    limit raises ``ValueError`` before the first file is written.
    """
    folder = pathlib.Path(folder).resolve()
    try:
        with tarfile.open(archive) as tar:
            members = []
            total = 0
            for member in tar:  # reads headers only
                if member.isdir():
                    continue
                target = (folder / member.name).resolve()
                if not member.isfile():
                    raise ValueError(f"{archive} has {member.name!r}, a link or a device")
                if os.path.isabs(member.name) or folder not in target.parents:
                    raise ValueError(
                        f"{archive} has {member.name!r}, which leads out of its folder"
                    )
                total += member.size
                if total > limit or len(members) >= 1000:
                    raise ValueError(
                        f"{archive} unpacks to more than {limit:,} bytes or 1,000 files, more than "
                        "a checkpoint of this network"
                    )
                members.append((member, target))
            for member, target in members:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(
            f"{archive} is not a complete tar archive (truncated, or of another format): {error}"
        ) from error


def _check(path, md5, url):
    kind, expected = ("md5", md5) if md5 else ("sha256", _recorded(path))
    if expected is None:  # put there by hand, or before hashes were recorded
        with contextlib.suppress(OSError):
            record(path)
        return
    digest = _digest(path, kind)
    if digest != expected:
        raise DownloadError(
            f"{path} differs from {url}: its {kind} is {digest}, but {expected} was "
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
    """Downloads to ``<path>.part``, which a later call resumes; checks and renames it."""
    source = _mirrored(url)
    by_hand = f"Or put that file at {path} by hand" + (f" (md5 {md5})" if md5 else "")
    if os.environ.get("KERAS_EFFNET_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(
            f"{url} is needed, but KERAS_EFFNET_OFFLINE is set: unset it. {by_hand}"
        )
    part = pathlib.Path(f"{path}.part")
    for attempt in range(ATTEMPTS):
        resumed = part.exists()
        try:
            _receive(source, part, path.name)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and resumed:  # the part is longer: the file has changed
                _forget(part)
                continue
            raise DownloadError(
                f"{source} returned {error.code} {error.reason}. {by_hand}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise DownloadError(
                    f"{source} could not be downloaded: {error}. Try again to resume it, or set "
                    f"KERAS_EFFNET_MIRROR to a reachable address. {by_hand}"
                ) from error
            time.sleep(2**attempt)
    if md5:
        digest = _digest(part, "md5")
        if digest != md5:
            _forget(part)
            raise DownloadError(
                f"{source} is not the published file: its md5 is {digest}, but {md5} was "
                "published. It was deleted; try again, or use another network (some return a login "
                f"page instead of the file). {by_hand}"
            )
    os.replace(part, path)
    _forget(part)
    if not md5:
        record(path)


def _receive(source, part, name):
    """Appends the missing bytes to a part; raises OSError if the connection ends too early."""
    state = pathlib.Path(f"{part}.json")  # the version of the file that the part belongs to
    request = urllib.request.Request(source)
    start = 0
    if part.exists() and state.exists():
        start = part.stat().st_size
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", json.loads(state.read_text())["version"])
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start = start if response.status == 206 else 0  # 200: no resume, or another version
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
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
            while chunk := response.read(_CHUNK):
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
