"""``effnet-tflite``: converts models to .tflite and evaluates .tflite files."""

from tflite.cli.convert import main

__all__ = ["main"]
