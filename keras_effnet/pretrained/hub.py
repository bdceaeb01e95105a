"""Files of the Hugging Face hub; the only importer of huggingface_hub.

An address is ``hf://OWNER/NAME@REVISION``. The revision is a branch, a tag or a commit; without one
it is ``main``. Where a repository holds several files of weights, the address names one:
``hf://OWNER/NAME/FILE@REVISION``.

Environment:
    HF_ENDPOINT, HF_TOKEN, HF_HOME: as huggingface_hub reads them.
    KERAS_EFFNET_OFFLINE, HF_HUB_OFFLINE: if set (and not "0"), the hub is not asked.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from keras_effnet.pretrained.download import DownloadError

_SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(\S+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = ("KERAS_EFFNET_OFFLINE", "HF_HUB_OFFLINE")
_FALSE = ("", "0", "false", "no", "off")
_TIMEOUT = 30  # seconds to wait for the hub's answer


class UnreachableError(DownloadError):
    """The hub did not answer."""


@dataclass(frozen=True)
class Address:
    """A repository of the hub at a revision, and the file in it, if one is named."""

    repository: str
    file: str | None
    revision: str

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{_SCHEME}{self.repository}{file}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return _COMMIT.fullmatch(self.revision) is not None


def is_address(weights: object) -> bool:
    """Whether a value of ``weights=`` is an address of the hub.

    >>> is_address("hf://timm/tf_efficientnet_b0.ns_jft_in1k")
    True
    """
    return isinstance(weights, str) and weights.startswith(_SCHEME)


def parse(address: str) -> Address:
    """The :class:`Address` of a text; raises ``ValueError`` with an example for another form.

    >>> parse("hf://timm/tf_efficientnet_b0.ns_jft_in1k@main").repository
    'timm/tf_efficientnet_b0.ns_jft_in1k'
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or any(part in (".", "..") for part in address.split("/")):
        raise ValueError(
            f"{address!r} is not an address of the hub: give hf://OWNER/NAME or "
            "hf://OWNER/NAME@REVISION, e.g. hf://timm/tf_efficientnet_b0.ns_jft_in1k"
        )
    repository, file, revision = match.groups()
    return Address(repository, file, revision or "main")


def offline_reason() -> str | None:
    """The variable of the environment that forbids asking the hub, or None."""
    return next((n for n in _OFFLINE if os.environ.get(n, "0").lower() not in _FALSE), None)


def list_files(address: Address) -> tuple[str, tuple[str, ...]]:
    """(commit, names of the files) of a repository at its revision.

    Raises :class:`UnreachableError`, or :class:`DownloadError` for a repository or revision that
    does not exist, one that may not be read, and a missing package.
    """
    with _client(address) as client:
        info = client.HfApi(endpoint=_endpoint()).model_info(
            address.repository, revision=address.revision, timeout=_TIMEOUT
        )
    return info.sha, tuple(item.rfilename for item in info.siblings or ())


def download_file(address: Address, commit: str, name: str) -> pathlib.Path:
    """The local path of a file in a repository at a commit, in huggingface_hub's cache.

    Raises as :func:`list_files` does.
    """
    with _client(address) as client:
        path = client.hf_hub_download(
            address.repository,
            name,
            revision=commit,
            etag_timeout=_TIMEOUT,
            endpoint=_endpoint(),
        )
    return pathlib.Path(path)


def _endpoint():
    """The hub's address, also if it was set after huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT") or None


@contextlib.contextmanager
def _client(address: Address) -> Iterator:
    """The package huggingface_hub; its exceptions become :class:`DownloadError`."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise DownloadError(
            f"{address} requires the package huggingface_hub: pip install huggingface_hub"
        ) from error
    where = f"{_SCHEME}{address.repository}"
    # Releases before 1.0 raise exceptions of requests, which are OSErrors.
    connection_errors = (OSError, getattr(errors, "HTTPError", OSError))
    try:
        yield huggingface_hub
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{where} may only be read with permission: accept its conditions on the hub's page, "
            "then set HF_TOKEN to your token (or run: hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(
            f"{where} has no revision {address.revision!r}: give a branch, a tag or a commit of "
            "it, or none for the newest"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{where} does not exist, or is private: check the name. For a private repository set "
            "HF_TOKEN to a token that may read it (or run: hf auth login)"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and 400 <= status < 500:
            raise DownloadError(f"{where}: the hub answered {_first_line(error)}") from error
        raise _unreachable(where, error) from error
    except (errors.EntryNotFoundError, ValueError) as error:
        raise DownloadError(f"{where}: {_first_line(error)}") from error
    except connection_errors as error:
        raise _unreachable(where, error) from error


def _unreachable(where, error):
    return UnreachableError(
        f"{where} cannot be downloaded, because the hub is unreachable ({_first_line(error)}). Try "
        "again, set HF_ENDPOINT to a mirror, or download the files by hand and use `effnet port`"
    )


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
