"""Converts Keras image classifiers to .tflite in every precision that mobile devices run.

int8 keeps the accuracy of the float model, and every conversion is evaluated against it.

>>> import tflite
>>> conversion = tflite.convert(model, calibration="photos/")  # doctest: +SKIP
>>> print(conversion.plan, conversion.report)  # doctest: +SKIP
>>> tflite.save(conversion, "model.tflite")  # doctest: +SKIP

Step by step: ``export_float32`` -> ``load_images``, ``calibrate`` -> ``make_plan``, ``quantize`` ->
``evaluate``. Importing this package imports neither TensorFlow nor LiteRT; converting does.
"""

from keras_effnet.litert.ops import ConversionError, read_ops
from tflite.converter import convert
from tflite.evaluation.accuracy import EvaluationImages, EvaluationReport, Metrics, evaluate
from tflite.export import export_float32, load_keras
from tflite.images.loader import ImageSet, load_images
from tflite.presets import PRESETS, Preset
from tflite.quantization.calibration import calibrate, collect_histograms
from tflite.quantization.mixed_precision import BudgetError
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import OpPlan, QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.result import Conversion, save

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
