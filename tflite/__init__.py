"""From a Keras classifier to a phone: float32 and full int8 .tflite, checked against the model.

>>> import tflite
>>> conversion = tflite.convert(model, calibration="photos/")  # doctest: +SKIP
>>> print(conversion.plan, conversion.report)  # doctest: +SKIP
>>> tflite.save(conversion, "model.tflite")  # doctest: +SKIP

Step by step: ``float_tflite`` -> ``load_images``, ``calibrate`` -> ``plan_int8``, ``quantize`` ->
``verify``. Importing this package imports neither TensorFlow nor LiteRT; converting does.
"""

from tflite.calibrate import calibrate
from tflite.convert import MODES, Conversion, convert, save
from tflite.export import float_tflite, load_keras
from tflite.graph import ConversionError, read_ops
from tflite.images import ImageSet, load_images
from tflite.quantize import OpPlan, QuantPlan, plan_int8, quantize
from tflite.verify import Measured, Report, verify

__all__ = [
    "MODES",
    "Conversion",
    "ConversionError",
    "ImageSet",
    "Measured",
    "OpPlan",
    "QuantPlan",
    "Report",
    "calibrate",
    "convert",
    "float_tflite",
    "load_images",
    "load_keras",
    "plan_int8",
    "quantize",
    "read_ops",
    "save",
    "verify",
]
