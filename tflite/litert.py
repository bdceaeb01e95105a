"""Access to ai-edge-litert and ai-edge-quantizer: interpreters, the delegation test, flatbuffer
tools, the quantizer. No other module imports these packages, the extra ``keras_effnet[tflite]``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings

import numpy as np

_MISSING = (
    "tflite needs ai-edge-litert and ai-edge-quantizer, but this Python cannot import them ({}). "
    'Install them: pip install "keras_effnet[tflite]"'
)

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def interpreter(tflite_model: bytes, *, num_threads: int = 1, keep_tensors: bool = False):
    """An allocated LiteRT interpreter, on the CPU with XNNPACK.

    Args:
        tflite_model: bytes.
        num_threads: threads of each op.
        keep_tensors: whether ``get_tensor`` can read every intermediate tensor; each then needs
            separate memory.

    Raises:
        ImportError: LiteRT is not installed.
        RuntimeError, ValueError: LiteRT cannot run the model.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    with _quiet():
        allocated = Interpreter(
            model_content=tflite_model,
            num_threads=num_threads,
            experimental_preserve_all_tensors=keep_tensors,
        )
        allocated.allocate_tensors()
    return allocated


def input_shape(tflite_model: bytes) -> tuple[int, int, int]:
    """(height, width, channels) of a model's input."""
    return tuple(int(n) for n in interpreter(tflite_model).get_input_details()[0]["shape"][1:])


def is_fully_accelerated(tflite_model: bytes) -> bool:
    """Whether XNNPACK runs every op on this machine, without LiteRT's slow reference kernels."""
    try:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    with native_log_hidden():
        compiled = CompiledModel.from_buffer(tflite_model, hardware_accel=HardwareAccelerator.CPU)
        fully = bool(compiled.is_fully_accelerated())
        del compiled  # here: its destructor logs, too
    return fully


def flatbuffer_tools():
    """``ai_edge_litert.tools.flatbuffer_utils``: converts .tflite bytes to objects and back."""
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return flatbuffer_utils


def schema():
    """``ai_edge_litert.schema_py_generated``: the classes of the .tflite format."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return schema_py_generated


def static(
    tflite_model: bytes,
    ranges: dict[str, dict[str, float]],
    float_rules,
    *,
    activations: str = "int8",
    float_ends: bool = True,
) -> bytes:
    """A .tflite with int8 weights and int8 or int16 activations, quantized by ai-edge-quantizer.

    Args:
        tflite_model: float32 .tflite.
        ranges: {tensor: {"min", "max"}} of every activation.
        float_rules: (op name, regular expression of ``"output tensor;"``) pairs of the ops that
            stay in float32; their weights are int8.
        activations: "int8" or "int16".
        float_ends: whether input and output stay float32.
    """
    _, qtyping, quantizer, recipe = aeq = _quantizer()
    rows = recipe.static_wi8_ai8() if activations == "int8" else recipe.static_wi8_ai16()
    quantize = quantizer.Quantizer(tflite_model, rows)
    known = {op.value for op in qtyping.TFLOperationName}  # other ops stay float32
    ends = [("INPUT", ".*"), ("OUTPUT", ".*")] if float_ends else []
    for op, pattern in [*float_rules, *ends]:
        if op not in known:
            continue
        if op in _WEIGHTED:
            quantize.add_weight_only_config(pattern, qtyping.TFLOperationName(op), num_bits=8)
        else:
            quantize.update_quantization_recipe(
                pattern,
                qtyping.TFLOperationName(op),
                algorithm_key=aeq[0].AlgorithmName.NO_QUANTIZE,
            )
    if activations == "int16":  # symmetric, as all 16-bit kernels need
        ranges = {
            name: dict.fromkeys(bounds, max(map(abs, bounds.values())))
            for name, bounds in ranges.items()
        }
        ranges = {name: {"min": -b["min"], "max": b["max"]} for name, b in ranges.items()}
    arrays = {
        name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
        for name, bounds in ranges.items()
    }
    with _quiet():
        result = quantize.quantize(arrays, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def float_activations(tflite_model: bytes, weights: str) -> bytes:
    """A .tflite that computes in float32, with its weights stored as "float16" or "int8"."""
    manager, qtyping, quantizer, recipe = _quantizer()
    if weights == "int8":
        quantize = quantizer.Quantizer(tflite_model, recipe.weight_only_wi8_afp32())
    else:
        quantize = quantizer.Quantizer(tflite_model)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        quantize.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=config,
            algorithm_key=manager.AlgorithmName.FLOAT_CASTING,
        )
    with _quiet():
        result = quantize.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _quantizer():
    try:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return algorithm_manager, qtyping, quantizer, recipe


@contextlib.contextmanager
def _quiet():
    """Hides the log, and the warning about the memory that keeping all tensors takes."""
    with warnings.catch_warnings(), native_log_hidden():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        yield


@contextlib.contextmanager
def native_log_hidden():
    """Hides output of C++ libraries on standard error, which bypasses Python's logging; prints it
    if the body raises. Affects the whole process.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            # Python's stream may write to another descriptor (keras_effnet.native_logs).
            with os.fdopen(os.dup(2), "w") as text, contextlib.redirect_stderr(text):
                yield
        except Exception:  # not Ctrl-C
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
