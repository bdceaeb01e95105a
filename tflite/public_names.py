"""The public names of tflite, which the package imports at their first use."""

# ruff: noqa: F401

from keras_effnet.litert.ops import ConversionError, read_ops
from tflite.converter import convert
from tflite.evaluation.accuracy import EvaluationImages, EvaluationReport, Metrics, evaluate
from tflite.export import export_float32
from tflite.images.loader import ImageSet, load_images
from tflite.keras_models.files import load_keras
from tflite.presets import PRESETS, Preset
from tflite.quantization.calibration import calibrate, collect_histograms
from tflite.quantization.mixed_precision import BudgetError
from tflite.quantization.options import ConversionOptions
from tflite.quantization.plan import OpPlan, QuantPlan, make_plan
from tflite.quantization.quantizer import quantize
from tflite.result import Conversion, save
