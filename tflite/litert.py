"""The one importer of ai-edge-litert and ai-edge-quantizer, the extra ``keras_effnet[tflite]``:
interpreters, the delegation test, the flatbuffer tools, the quantizer.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings

import numpy as np

_MISSING = (
    "tflite needs ai-edge-litert and ai-edge-quantizer, and this Python cannot import them ({}). "
    'Install them: pip install "keras_effnet[tflite]"'
)


_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def interpreter(model, *, num_threads=1, keep_tensors=False):
    """An allocated interpreter of a .tflite in bytes, on the CPU with XNNPACK.

    `keep_tensors` keeps every intermediate tensor for ``get_tensor``, in memory of its own.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    with _quiet():
        made = Interpreter(
            model_content=model,
            num_threads=num_threads,
            experimental_preserve_all_tensors=keep_tensors,
        )
        made.allocate_tensors()
    return made


def input_shape(model):
    """(height, width, channels) that a .tflite in bytes takes."""
    return tuple(int(n) for n in interpreter(model).get_input_details()[0]["shape"][1:])


def scores(made, images):
    """Outputs (images, classes), float32, of an interpreter for images (n, height, width, 3) in [0,
    255], one at a time, in the type that the model takes.
    """
    feed, fetch = made.get_input_details()[0], made.get_output_details()[0]
    rows = []
    for image in images:
        made.set_tensor(feed["index"], image[None].astype(feed["dtype"]))
        made.invoke()
        rows.append(made.get_tensor(fetch["index"])[0])
    scale, zero = fetch["quantization"]
    found = np.stack(rows)
    return (found.astype(np.float32) - zero) * np.float32(scale) if scale else found


def latencies_ms(made, runs, clock=time.perf_counter):
    """[median time of a call, ...] of interpreters that have their input. They take turns, so that
    whatever else the machine does slows all of them.
    """
    times = [[] for _ in made]
    for _ in range(runs):
        for each, found in zip(made, times):
            start = clock()
            each.invoke()
            found.append((clock() - start) * 1e3)
    return [statistics.median(found) for found in times]


def is_fully_accelerated(model):
    """Whether every op of a .tflite in bytes runs in XNNPACK on this machine, none in the slow
    reference kernels.
    """
    try:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    with native_log_hidden():
        compiled = CompiledModel.from_buffer(model, hardware_accel=HardwareAccelerator.CPU)
        fully = bool(compiled.is_fully_accelerated())
        del compiled  # here: it logs its end as well
    return fully


def flatbuffer_tools():
    """ai_edge_litert's ``flatbuffer_utils``: .tflite bytes to objects and back."""
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return flatbuffer_utils


def schema():
    """ai_edge_litert's classes of the .tflite format."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return schema_py_generated


def static(model, ranges, float_rules, *, activations="int8", float_ends=True):
    """Bytes of a .tflite with int8 weights and int8 or int16 activations after ai-edge-quantizer.

    Args:
        model: float32 .tflite, bytes.
        ranges: {tensor: {"min", "max"}} of every activation.
        float_rules: (op name, regular expression of ``"output tensor;"``) pairs of the ops that
            stay float32, with their weights in int8 all the same.
        activations: "int8" or "int16".
        float_ends: whether input and output stay float32.
    """
    _, qtyping, quantizer, recipe = aeq = _quantizer()
    rows = recipe.static_wi8_ai8() if activations == "int8" else recipe.static_wi8_ai16()
    made = quantizer.Quantizer(model, rows)
    known = {op.value for op in qtyping.TFLOperationName}  # what is not among them stays float
    ends = [("INPUT", ".*"), ("OUTPUT", ".*")] if float_ends else []
    for op, pattern in [*float_rules, *ends]:
        if op not in known:
            continue
        if op in _WEIGHTED:
            made.add_weight_only_config(pattern, qtyping.TFLOperationName(op), num_bits=8)
        else:
            made.update_quantization_recipe(
                pattern,
                qtyping.TFLOperationName(op),
                algorithm_key=aeq[0].AlgorithmName.NO_QUANTIZE,
            )
    if activations == "int16":  # symmetric, as every 16-bit kernel has them
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
        result = made.quantize(arrays, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def float_activations(model, weights):
    """Bytes of a .tflite that computes in float32 with its weights as "float16" or "int8"."""
    manager, qtyping, quantizer, recipe = _quantizer()
    if weights == "int8":
        made = quantizer.Quantizer(model, recipe.weight_only_wi8_afp32())
    else:
        made = quantizer.Quantizer(model)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        made.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=config,
            algorithm_key=manager.AlgorithmName.FLOAT_CASTING,
        )
    with _quiet():
        result = made.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _quantizer():
    try:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    return algorithm_manager, qtyping, quantizer, recipe


@contextlib.contextmanager
def _quiet():
    """Hides the log, and the warning of the memory that keeping all tensors takes: it is wanted."""
    with warnings.catch_warnings(), native_log_hidden():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        yield


@contextlib.contextmanager
def native_log_hidden():
    """Hides what C++ libraries write to the standard error stream past Python's logging; shows it
    after all if the body fails.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            # Python's stream may write to another descriptor (keras_effnet.native_logs).
            with os.fdopen(os.dup(2), "w") as text, contextlib.redirect_stderr(text):
                yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
