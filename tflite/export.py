"""Exports a Keras model to a float32 .tflite and checks it.

The same code serves Keras 3 and Keras 2.15: a ``tf.Module`` holds the model's variables and is
saved as a SavedModel with one signature of fixed shape. The other converters do not work:
``from_concrete_functions`` silently writes a file without the weights of a Keras 3 model, and
``from_keras_model`` leaves the batch open, which mobile delegates and MediaPipe do not accept.
"""

from __future__ import annotations

import math
import re
import tempfile

import numpy as np

from keras_effnet.float32_copy import in_float32
from keras_effnet.litert import ops, runner, runtime
from tflite.flatbuffer import rewrite

_TOLERANCE = 1e-4  # relative to the largest |output|, or to 1 if that is larger
_NO_WEIGHTS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
# An operation of TensorFlow that has none in TFLite, in the converter's message
_MISSING_OP = re.compile(r"""["']tf\.(\w+)["'](?:\(| op is neither)""")
_TERMINAL_CODE = re.compile(r"\x1b\[\d*m")  # Keras prints bold text


def image_shape(model, image_size=None) -> tuple[int, int, int]:
    """(height, width, channels) of the images of an exported Keras image classifier.

    Args:
        model: one input (batch, height, width, 1 or 3), outputs of any shape.
        image_size: pixels per side, or (height, width), for a model without a fixed size.

    Raises:
        ValueError: another kind of model, a model without a fixed size and no `image_size`, or an
            `image_size` that differs from the fixed size.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name} has no shapes: give a functional model, or a Sequential with an Input"
        )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        named = ", ".join(f"{t.name} {shape}" for t, shape in zip(model.inputs, shapes))
        raise ValueError(
            f"{model.name} has the inputs {named}; a .tflite gets one image, (batch, height, "
            "width, 3 or 1). Make the others constants: keras.Model(image, model([image, value]))"
        )
    _, *fixed, channels = shapes[0]
    if channels not in (1, 3):
        raise ValueError(
            f"{model.name} takes images of shape {shapes[0][1:]}; a .tflite classifier needs "
            "(height, width, 3), RGB with channels last, or (height, width, 1)"
        )
    if image_size is None:
        if None in fixed:
            raise ValueError(
                f"{model.name} takes any image size {tuple(fixed)}, but a .tflite has a fixed one: "
                "give image_size, e.g. the size of the last training phase"
            )
        return (*fixed, channels)
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise ValueError(
            f"image_size must be a number of pixels or two of them, got {image_size!r}"
        )
    if any(side not in (None, wanted) for side, wanted in zip(fixed, size)):
        raise ValueError(
            f"image_size {image_size} does not fit {model.name}, which takes {tuple(fixed)}: leave "
            f"image_size out, or build the model with input_shape=(None, None, {channels})"
        )
    return (*(int(side) for side in size), channels)


def export_float32(model, *, image_size=None) -> bytes:
    """A .tflite that maps images (1, height, width, 3 or 1) float32 in [0, 255] to scores (1,
    classes) float32, or to the model's other outputs.

    The signature ``serving_default`` maps ``images`` to ``scores``, several outputs by name. A
    mixed-precision model is exported as float32. The .tflite is checked against the model.

    >>> tflite_model = export_float32(keras_model)  # doctest: +SKIP

    Args:
        model: a Keras image classifier.
        image_size: pixels per side, or (height, width), for a model without a fixed size.

    Raises:
        ValueError: not an image classifier, or a model without an image size.
        ConversionError: TensorFlow's converter fails, or the converted model has no weights, or
            other scores.
    """
    with runtime.native_log_hidden():
        import keras
        import tensorflow as tf

    shape = image_shape(model, image_size)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"Keras runs on {backend}; only its TensorFlow backend can convert. Save the model as "
            ".keras and convert it with KERAS_BACKEND=tensorflow"
        )
    model = in_float32(model)

    signature = [tf.TensorSpec((1, *shape), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        return _call(model, images)

    module = tf.Module()
    # Keras 3 wraps tf.Variables, which hides them from tf.Module.
    module.model_variables = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    module.saved_model = getattr(model, "loaded", None)
    problem = None
    with tempfile.TemporaryDirectory() as folder, runtime.native_log_hidden():
        try:
            tf.saved_model.save(
                module,
                folder,
                signatures={"serving_default": serve.get_concrete_function()},
                # Tracing the gradient of every swish would take a third of the export.
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            )
            content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # of layers, and of the converter, has any type
            problem = error  # raised below, outside of the block that would print TensorFlow's log
    if problem is not None:
        raise ops.ConversionError(
            f"TensorFlow cannot convert {model.name}: {_conversion_failure(problem)}"
        ) from problem
    content = rewrite.short_names(content)
    check_float(content, model, shape)
    return content


def _conversion_failure(problem):
    """One line: the operations that TFLite lacks, or else what TensorFlow says."""
    text = str(problem)
    missing = sorted(set(_MISSING_OP.findall(text)))
    if missing:
        return (
            f"TFLite has no {', '.join(missing)}. Replace the layers that compute this, or leave "
            "them out of the converted model and compute them in the app (e.g. an argmax)"
        )
    lines = [line.strip() for line in _TERMINAL_CODE.sub("", text).splitlines()]
    return " ".join(filter(None, lines))[:300] or type(problem).__name__


def check_float(content: bytes, model, shape: tuple[int, int, int]) -> None:
    """Raises ``ConversionError`` unless a .tflite contains the model's weights and gives the same
    scores, to 1e-4, on four random images of `shape`.
    """
    names = {op.name for op in ops.read_ops(content)}
    bad = sorted(n for n in names if n in _NO_WEIGHTS or n.startswith("Flex"))
    if bad:
        raise ops.ConversionError(
            f"the .tflite of {model.name} has the ops {', '.join(bad)}: its weights are not in the "
            "file, or it needs TensorFlow at run time. Convert it with tflite.export_float32"
        )
    # Kernels only: the converter folds batch normalization into them.
    kernels = sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1)
    if len(content) < 3 * kernels:
        raise ops.ConversionError(
            f"the .tflite of {model.name} has {len(content):,} bytes for {kernels:,} weights; "
            f"float32 weights need {4 * kernels:,}: weights are missing"
        )
    images = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.float32)
    worst = 0.0
    for image, got in zip(images, runner.signature_outputs(content, images)):
        for name, want in _call(model, image[None]).items():
            want = np.asarray(want)
            error = np.abs(got[name] - want).max() / max(1.0, np.abs(want).max())
            worst = max(worst, error) if error == error else error
            if not worst < _TOLERANCE:
                break
    if not worst < _TOLERANCE:  # also for NaN
        raise ops.ConversionError(
            f"the .tflite of {model.name} differs from the model by {worst:.2g} on random images; "
            f"{_TOLERANCE:g} is allowed. If the model itself returns NaN, its training diverged"
        )


def keras_outputs(model, images: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
    """The outputs of a model as :func:`export_float32` takes it, float32 (n, ...); of several
    outputs {name: (n, ...)}.
    """
    with runtime.native_log_hidden():
        rows = [_call(model, image[None].astype(np.float32)) for image in images]
    outputs = {
        name: np.concatenate([np.asarray(row[name], np.float32) for row in rows])
        for name in rows[0]
    }
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _call(model, images):
    """{name: output} in inference mode; the only input is passed in the structure that the model
    was built with.
    """
    structure = getattr(model, "input", None)  # a Sequential has none
    if isinstance(structure, (list, tuple)):
        images = [images]
    elif isinstance(structure, dict):
        images = dict.fromkeys(structure, images)
    outputs = model(images, training=False)
    names = getattr(model, "output_names", None) or ()
    if isinstance(outputs, (list, tuple)) and len(set(names)) == len(outputs):
        outputs = dict(zip(names, outputs))
    outputs = _named(outputs)
    return {"scores": next(iter(outputs.values()))} if len(outputs) == 1 else outputs


def _named(outputs, prefix=""):
    """{name: tensor} of nested outputs: keys of dicts, positions in lists."""
    if isinstance(outputs, dict):
        items = outputs.items()
    elif isinstance(outputs, (list, tuple)):
        items = enumerate(outputs)
    else:
        return {prefix or "output": outputs}
    named = {}
    for key, value in items:
        name = f"{prefix}_{key}" if prefix else (key if isinstance(key, str) else f"output_{key}")
        named.update(_named(value, name))
    return named
