"""Installed packages that share a folder with one of this project's packages."""

from __future__ import annotations

import importlib.metadata


def check_package_conflicts() -> None:
    """Raises ``ImportError`` if PyPI's unrelated package ``tflite`` is installed.

    Its files lie in the folder ``tflite/``, too, and replace this project's.
    """
    try:
        version = importlib.metadata.version("tflite")
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"an unrelated package of PyPI, tflite {version}, is installed in the same folder as "
        "keras_effnet's tflite. Reinstall: pip uninstall -y tflite keras_effnet; then install "
        "keras_effnet again"
    )
