"""Converts Keras image classifiers to .tflite in every precision that mobile devices run.

int8 keeps the accuracy of the float model, and every conversion is evaluated against it.

>>> import tflite
>>> conversion = tflite.convert(model, calibration="photos/")  # doctest: +SKIP
>>> print(conversion.plan, conversion.report)  # doctest: +SKIP
>>> tflite.save(conversion, "model.tflite")  # doctest: +SKIP

Step by step: ``export_float32`` -> ``load_images``, ``calibrate`` -> ``make_plan``, ``quantize`` ->
``evaluate``. Importing this package imports neither TensorFlow nor LiteRT; converting does.
"""

# ruff: noqa: F405

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keras_effnet.package_conflicts import check_package_conflicts

if TYPE_CHECKING:
    from tflite.public_names import *  # noqa: F403

__all__ = [
    "PRESETS",
    "BudgetError",
    "Conversion",
    "ConversionError",
    "ConversionOptions",
    "EvaluationImages",
    "EvaluationReport",
    "ImageSet",
    "Metrics",
    "OpPlan",
    "Preset",
    "QuantPlan",
    "calibrate",
    "collect_histograms",
    "convert",
    "evaluate",
    "export_float32",
    "load_images",
    "load_keras",
    "make_plan",
    "quantize",
    "read_ops",
    "save",
]


def __getattr__(name):
    # At the first use: a command handles Ctrl-C before it imports the rest.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_package_conflicts()
    globals()[name] = value = getattr(importlib.import_module("tflite.public_names"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
