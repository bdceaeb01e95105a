"""``effnet-tflite``: converts a model to .tflite; ``report`` and ``compare`` evaluate .tflite files."""

from tflite.cli.convert import main

__all__ = ["main"]
