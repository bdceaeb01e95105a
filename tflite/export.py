"""Keras model -> float32 .tflite. The only module of this package that imports TensorFlow.

One path for Keras 3 and Keras 2.15: a ``tf.Module`` that holds the model's variables, saved as a
SavedModel with one signature of a fixed shape. (``from_concrete_functions`` with a Keras 3 model
writes a file without its weights and says nothing; ``from_keras_model`` leaves the batch open,
which phones' delegates and MediaPipe do not take.)
"""

import math
import os
import tempfile

import numpy as np

from tflite import litert
from tflite.flatbuffer import ops, rewrite, runner

_TOLERANCE = 1e-4  # of the largest |output|, or of 1 where that is smaller
_NO_WEIGHTS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def load_keras(path):
    """A Keras model of a ``.keras`` or ``.h5`` file, without its optimizer.

    Raises ``ValueError`` for a path that is not there, or a file that Keras cannot read.
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
            problem = error  # raised outside, or TensorFlow's start-up log would come with it
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    raise ValueError(f"Keras cannot load {path!r}: {reason}") from problem


def image_shape(model, image_size=None):
    """(height, width, 3) that a Keras image classifier will take as a .tflite.

    Args:
        model: one input (batch, height, width, 3), one output (batch, classes).
        image_size: pixels a side, or (height, width), of a model whose own size is None.

    Raises:
        ValueError: another kind of model, an open size without `image_size`, or an `image_size`
            that the model does not have.
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
    _, *own, channels = shapes[0]
    if channels != 3:
        raise ValueError(
            f"{model.name} takes images of shape {shapes[0][1:]}; a phone gives (height, width, 3),"
            " RGB with channels last"
        )
    if image_size is None:
        if None in own:
            raise ValueError(
                f"{model.name} takes any image size {tuple(own)}, and a .tflite has one: give "
                "image_size, e.g. the size of its training's last phase"
            )
        return (*own, 3)
    asked = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(asked) != 2 or any(int(side) != side or side < 1 for side in asked):
        raise ValueError(f"image_size {image_size!r} is not a number of pixels, nor two of them")
    if any(side not in (None, want) for side, want in zip(own, asked)):
        raise ValueError(
            f"image_size {image_size} does not fit {model.name}, which takes {tuple(own)}: leave "
            "image_size out, or build the model with input_shape=(None, None, 3)"
        )
    return (*(int(side) for side in asked), 3)


def export_float32(model, *, image_size=None):
    """Bytes of a .tflite: images (1, height, width, 3) float32 in [0, 255] -> scores (1, classes)
    float32.

    The signature ``serving_default`` maps ``images`` to ``scores``. A model of mixed precision is
    exported as float32. The bytes are checked against the model before they are returned.

    Args:
        model: a Keras image classifier.
        image_size: pixels a side, or (height, width), of a model whose own size is None.

    Raises:
        ValueError: a model that is no image classifier, or has no size.
        ConversionError: the converter's product has no weights, or answers differently.
    """
    with litert.native_log_hidden():
        import keras
        import tensorflow as tf

    shape = image_shape(model, image_size)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"Keras runs on {backend}; only its TensorFlow backend converts. Save the model as "
            ".keras and convert it with KERAS_BACKEND=tensorflow"
        )
    model = _in_float32(model, keras)

    signature = [tf.TensorSpec((1, *shape), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        return {"scores": _call(model, images)}

    module = tf.Module()
    module.serve = serve
    keras_3 = hasattr(keras, "Variable")  # which wraps TensorFlow's variables: unseen by tf.Module
    module.model_variables = [v.value if keras_3 else v for v in model.variables]
    with tempfile.TemporaryDirectory() as folder, litert.native_log_hidden():
        tf.saved_model.save(
            module, folder, signatures={"serving_default": serve.get_concrete_function()}
        )
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    content = rewrite.short_names(content)
    check_float(content, model, shape)
    return content


def check_float(content, model, shape):
    """Raises ``ConversionError`` unless .tflite bytes hold the model's weights and give its
    answers, to 1e-4, on four random images of `shape` (height, width, 3).
    """
    names = {op.name for op in ops.read_ops(content)}
    bad = sorted(n for n in names if n in _NO_WEIGHTS or n.startswith("Flex"))
    if bad:
        raise ops.ConversionError(
            f"the .tflite of {model.name} has the ops {', '.join(bad)}: its weights are not in the "
            "file, or it needs TensorFlow at run time. Convert through tflite.float32_model"
        )
    # Kernels only: batch normalisation's vectors disappear into them.
    kernels = sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1)
    if len(content) < 3 * kernels:
        raise ops.ConversionError(
            f"the .tflite of {model.name} has {len(content):,} bytes for {kernels:,} weights; "
            f"float32 ones take {4 * kernels:,}: weights are missing"
        )
    images = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.float32)
    want = np.concatenate([np.asarray(_call(model, image[None])) for image in images])
    got = runner.scores(content, images)
    worst = np.abs(got - want).max() / max(1.0, np.abs(want).max())
    if not worst < _TOLERANCE:  # also where it is nan
        raise ops.ConversionError(
            f"the .tflite of {model.name} differs from the model by {worst:.2g} on random images; "
            f"{_TOLERANCE:g} is allowed. If the model itself gives nan, its training diverged"
        )


def _call(model, images):
    """The model's answer in inference mode, its only input given in the structure it was built
    with.
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
    """The model itself, or a float32 copy of a model of mixed precision."""
    if all(layer.compute_dtype == "float32" for layer in model.layers if layer.weights):
        return model

    def copy(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(model, clone_function=copy)
    clone.set_weights(model.get_weights())
    return clone
