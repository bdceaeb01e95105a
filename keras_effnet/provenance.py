"""Versions of the packages that a result depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence

import keras_effnet

_PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "tensorflow", "keras", "numpy")


def package_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """{name: version} of this package, of Python, and of those `packages` that are installed.

    >>> list(package_versions(["numpy"]))
    ['keras_effnet', 'python', 'numpy']
    """
    versions = {"keras_effnet": keras_effnet.__version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def version_text() -> str:
    """The versions as one line of text, with those of Keras's backends.

    >>> version_text().startswith(f"keras_effnet {keras_effnet.__version__}, python 3.")
    True
    """
    return ", ".join(
        f"{name} {version}"
        for name, version in package_versions((*_PACKAGES, "jax", "torch")).items()
    )


def file_sha256(path: str | os.PathLike[str]) -> str | None:
    """The SHA-256 of a file in hexadecimal; None if there is no such file (a name, a folder).

    >>> file_sha256("efficientnet-b0") is None
    True
    """
    if not os.path.isfile(path):
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
