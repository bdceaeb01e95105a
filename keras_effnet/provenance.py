"""Versions of the packages that a result depends on."""

from __future__ import annotations

import importlib.metadata
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
