"""Text of a file as a card may show it: without local folders."""

from __future__ import annotations

import re


def without_folders(text: str) -> str:
    """A name that begins with a path, without the folders: a card is public, and folders may have
    the names of users in them.

    >>> without_folders("/home/me/my photos/train (20 images)")
    'train (20 images)'
    >>> without_folders("tfds:mnist/3.0.1 train")
    'tfds:mnist/3.0.1 train'
    """
    return re.sub(r"^(?:[A-Za-z]:|[a-z0-9]+:/)?[/\\].*[/\\](?=[^/\\\s(])", "", str(text))
