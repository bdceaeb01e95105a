"""The one importer of ai-edge-litert and ai-edge-quantizer, the extra ``keras_effnet[tflite]``:
interpreters, the delegation test, the flatbuffer tools, the quantizer.
"""

import contextlib
import os
import sys
import tempfile
import warnings

import numpy as np

_MISSING = (
    "tflite needs ai-edge-litert and ai-edge-quantizer, and this Python cannot import them ({}). "
    'Install them: pip install "keras_effnet[tflite]"'
)


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


def scores(made, images):
    """Outputs (images, classes) of an interpreter for images (n, height, width, 3) in [0, 255], one
    at a time, in the type that the model takes.
    """
    feed, fetch = made.get_input_details()[0], made.get_output_details()[0]
    rows = []
    for image in images:
        made.set_tensor(feed["index"], image[None].astype(feed["dtype"]))
        made.invoke()
        rows.append(made.get_tensor(fetch["index"])[0])
    return np.stack(rows)


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


def static_int8(model, ranges, float_rules):
    """Bytes of a .tflite with int8 weights and activations, float32 in and out, after
    ai-edge-quantizer.

    Args:
        model: float32 .tflite, bytes.
        ranges: {tensor: {"min", "max"}} of every activation.
        float_rules: (op name, regular expression of ``"output tensor;"``) pairs of the ops that
            stay float32.
    """
    try:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe
    except ImportError as error:
        raise ImportError(_MISSING.format(error)) from error
    made = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    known = {op.value for op in qtyping.TFLOperationName}  # what is not among them stays float
    for op, pattern in [*float_rules, ("INPUT", ".*"), ("OUTPUT", ".*")]:
        if op not in known:
            continue
        made.update_quantization_recipe(
            pattern,
            qtyping.TFLOperationName(op),
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    arrays = {
        name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
        for name, bounds in ranges.items()
    }
    with _quiet():
        result = made.quantize(arrays, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


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
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
