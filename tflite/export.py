"""Exports a Keras model to a float32 .tflite and checks it.

The same code serves Keras 3 and Keras 2.15: a ``tf.Module`` holds the model's variables and is
saved as a SavedModel with one signature of fixed shape. The other converters do not work:
``from_concrete_functions`` silently writes a file without the weights of a Keras 3 model, and
``from_keras_model`` leaves the batch open, which mobile delegates and MediaPipe do not accept.
"""

from __future__ import annotations

import math
import os
import tempfile

import numpy as np

from keras_effnet.weight_transfer import copy_weights
from tflite import litert
from tflite.flatbuffer import ops, rewrite, runner

_TOLERANCE = 1e-4  # relative to the largest |output|, or to 1 if that is larger
_NO_WEIGHTS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def load_keras(path: str | os.PathLike):
    """The Keras model in a ``.keras`` or ``.h5`` file, without its optimizer.

    Raises:
        ValueError: the file does not exist, or Keras cannot read it.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"model {path!r} is not a file; give a .keras or .h5 file")
    problem = None
    with litert.native_log_hidden():
        import keras

        try:
            return keras.models.load_model(path, compile=False)
        except (ValueError, TypeError, OSError) as error:
            problem = error  # raised below, outside of the block that would print TensorFlow's log
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    raise ValueError(f"Keras cannot load {path!r}: {reason}") from problem


def image_shape(model, image_size=None) -> tuple[int, int, int]:
    """(height, width, 3) of the images of an exported Keras image classifier.

    Args:
        model: one input (batch, height, width, 3), one output (batch, classes).
        image_size: pixels per side, or (height, width), for a model without a fixed size.

    Raises:
        ValueError: another kind of model, a model without a fixed size and no `image_size`, or an
            `image_size` that differs from the fixed size.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name} has no shapes: give a functional model, or a Sequential with an Input"
        )
    shapes = [tuple(tensor.shape) for tensor in [*model.inputs, *model.outputs]]
    if len(model.inputs) != 1 or len(model.outputs) != 1 or list(map(len, shapes)) != [4, 2]:
        raise ValueError(
            f"{model.name} has inputs and outputs of shapes {shapes}; an image classifier has one "
            "input (batch, height, width, 3) and one output (batch, classes). Build it with "
            "include_top=True"
        )
    _, *fixed, channels = shapes[0]
    if channels != 3:
        raise ValueError(
            f"{model.name} takes images of shape {shapes[0][1:]}; a .tflite classifier needs "
            "(height, width, 3), RGB with channels last"
        )
    if image_size is None:
        if None in fixed:
            raise ValueError(
                f"{model.name} takes any image size {tuple(fixed)}, but a .tflite has a fixed one: "
                "give image_size, e.g. the size of the last training phase"
            )
        return (*fixed, 3)
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise ValueError(
            f"image_size must be a number of pixels or two of them, got {image_size!r}"
        )
    if any(side not in (None, wanted) for side, wanted in zip(fixed, size)):
        raise ValueError(
            f"image_size {image_size} does not fit {model.name}, which takes {tuple(fixed)}: leave "
            "image_size out, or build the model with input_shape=(None, None, 3)"
        )
    return (*(int(side) for side in size), 3)


def export_float32(model, *, image_size=None) -> bytes:
    """A .tflite that maps images (1, height, width, 3) float32 in [0, 255] to scores (1, classes)
    float32.

    The signature ``serving_default`` maps ``images`` to ``scores``. A mixed-precision model is
    exported as float32. The .tflite is checked against the model.

    >>> tflite_model = export_float32(keras_model)  # doctest: +SKIP

    Args:
        model: a Keras image classifier.
        image_size: pixels per side, or (height, width), for a model without a fixed size.

    Raises:
        ValueError: not an image classifier, or a model without an image size.
        ConversionError: the converted model has no weights, or other scores.
    """
    with litert.native_log_hidden():
        import keras
        import tensorflow as tf

    shape = image_shape(model, image_size)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"Keras runs on {backend}; only its TensorFlow backend can convert. Save the model as "
            ".keras and convert it with KERAS_BACKEND=tensorflow"
        )
    model = _in_float32(model, keras)

    signature = [tf.TensorSpec((1, *shape), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        return {"scores": _call(model, images)}

    module = tf.Module()
    module.serve = serve
    keras_3 = hasattr(keras, "Variable")  # wraps tf.Variables, which hides them from tf.Module
    module.model_variables = [v.value if keras_3 else v for v in model.variables]
    with tempfile.TemporaryDirectory() as folder, litert.native_log_hidden():
        tf.saved_model.save(
            module, folder, signatures={"serving_default": serve.get_concrete_function()}
        )
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    content = rewrite.short_names(content)
    check_float(content, model, shape)
    return content


def check_float(content: bytes, model, shape: tuple[int, int, int]) -> None:
    """Raises ``ConversionError`` unless a .tflite contains the model's weights and gives the same
    scores, to 1e-4, on four random images of `shape` (height, width, 3).
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
    want = np.concatenate([np.asarray(_call(model, image[None])) for image in images])
    got = runner.scores(content, images)
    worst = np.abs(got - want).max() / max(1.0, np.abs(want).max())
    if not worst < _TOLERANCE:  # also for NaN
        raise ops.ConversionError(
            f"the .tflite of {model.name} differs from the model by {worst:.2g} on random images; "
            f"{_TOLERANCE:g} is allowed. If the model itself returns NaN, its training diverged"
        )


def _call(model, images):
    """The output in inference mode; the only input is passed in the structure that the model was
    built with.
    """
    structure = getattr(model, "input", None)  # a Sequential has none
    if isinstance(structure, (list, tuple)):
        images = [images]
    elif isinstance(structure, dict):
        images = dict.fromkeys(structure, images)
    out = model(images, training=False)
    while isinstance(out, (list, tuple, dict)):
        (out,) = out.values() if isinstance(out, dict) else out
    return out


def _in_float32(model, keras):
    """The model, or a float32 copy of a mixed-precision model."""
    if all(layer.compute_dtype == "float32" for layer in model.layers if layer.weights):
        return model

    def copy(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(model, clone_function=copy)
    copy_weights(model, clone)
    return clone
