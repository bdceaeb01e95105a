"""Checks of a preview's flags, without TensorFlow: commands check their flags before it."""

from __future__ import annotations

import os


def check_picture(path: str, images: int) -> None:
    """Raises ``ValueError`` for a preview that cannot be drawn of `images` or written to `path`."""
    if images < 2 or images % 2:
        raise ValueError(f"images must be even and at least 2 (mixup pairs them), got {images}")
    if not path.lower().endswith(".png"):
        raise ValueError(f"the picture {path} must have the ending .png")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"folder {folder} does not exist: create it, or choose another one")
