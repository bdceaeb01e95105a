"""Access to LiteRT (ai-edge-litert): interpreters, the delegation test, flatbuffer tools.

No other module imports this package, which the extra ``keras_effnet[tflite]`` installs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings

MISSING = (
    ".tflite files need ai-edge-litert and ai-edge-quantizer, which cannot be imported ({}). "
    'Install them: pip install "keras_effnet[tflite]"'
)


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
        raise ImportError(MISSING.format(error)) from error
    with quiet():
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
        raise ImportError(MISSING.format(error)) from error
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
        raise ImportError(MISSING.format(error)) from error
    return flatbuffer_utils


def schema():
    """``ai_edge_litert.schema_py_generated``: the classes of the .tflite format."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(MISSING.format(error)) from error
    return schema_py_generated


@contextlib.contextmanager
def quiet():
    """Hides the log, and the warning about the memory that keeping all tensors takes."""
    with warnings.catch_warnings(), native_log_hidden():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        yield


@contextlib.contextmanager
def native_log_hidden():
    """Hides output of C++ libraries on standard error, which bypasses Python's logging; prints it
    if the body raises. Affects the whole process.
    """
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (AttributeError, OSError, ValueError):  # no stderr, as after 2>&-
        yield
        return
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
