"""Exports a Keras model to a float32 .tflite and checks it.

The same code serves Keras 3 and Keras 2.15: a ``tf.Module`` holds the model's variables and is
saved as a SavedModel with one signature of fixed shape. The other converters do not work:
``from_concrete_functions`` silently writes a file without the weights of a Keras 3 model, and
``from_keras_model`` leaves the batch open, which mobile delegates and MediaPipe do not accept.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np

from keras_effnet.compiled_loss import read_loss
from keras_effnet.litert import ops, runner, runtime
from keras_effnet.weight_transfer import copy_weights
from tflite.flatbuffer import rewrite

_MAX_CONFIG = 64 << 20  # bytes of the layers' configuration in a .keras file
_MAX_RATIO = 100  # of a .keras file's unpacked size to its own: weights hardly shrink
_TOLERANCE = 1e-4  # relative to the largest |output|, or to 1 if that is larger
_NO_WEIGHTS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_CUSTOM = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|activation function)):? "
    r"'?([^\s'.]+)|object of type `([^`]+)`|'class_name': 'function', 'config': '([^']+)'"
)
# An operation of TensorFlow that has none in TFLite, in the converter's message
_MISSING_OP = re.compile(r"""["']tf\.(\w+)["'](?:\(| op is neither)""")
_TERMINAL_CODE = re.compile(r"\x1b\[\d*m")  # Keras prints bold text


def load_keras(path: str | os.PathLike, custom_objects: Mapping[str, object] | None = None):
    """The Keras model in a ``.keras`` or ``.h5`` file, without its optimizer, or the
    :class:`SavedModel` in a folder.

    Args:
        path: of the file.
        custom_objects: {name: class or function} that the file refers to. What is registered by
            ``keras.saving.register_keras_serializable`` need not be given.

    Raises:
        ValueError: the file does not exist, or Keras cannot read it.
    """
    path = os.fspath(path)
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return SavedModel(path)
    if not os.path.isfile(path):
        raise ValueError(f"model {path!r} is not a file; give a .keras or .h5 file")
    _check_format(path)
    problem = None
    with runtime.native_log_hidden():
        import keras

        try:
            with keras.utils.custom_object_scope(custom_objects or {}):
                model = keras.models.load_model(path, compile=False)
            model.loss = read_loss(path)  # alone: the rest may need the user's code
            return model
        except Exception as error:  # a custom layer may raise anything
            problem = error  # raised below, outside of the block that would print TensorFlow's log
    version = _other_version(path, keras.__version__)
    raise ValueError(f"Keras cannot load {path!r}{version}: {_load_failure(problem)}") from problem


def _check_format(path):
    """``ValueError`` for a file that is not of the format that its name says, or not complete."""
    ending = os.path.splitext(path)[1]
    if ending in (".h5", ".hdf5"):
        with open(path, "rb") as file:
            is_readable = file.read(8) == b"\x89HDF\r\n\x1a\n"
    elif ending == ".keras":
        is_readable = zipfile.is_zipfile(path)
    elif ending == ".json":
        raise ValueError(
            f"model {path!r} is a JSON file, which has no weights: if it describes a network, "
            f"train it with effnet-train --model={path}, and convert the model.keras of that run"
        )
    else:
        raise ValueError(
            f"model {path!r} is not a .keras, .h5 or .tflite file by its name, nor the folder of a "
            "SavedModel"
        )
    if not is_readable:
        raise ValueError(
            f"model {path!r} is not a {ending} file ({os.path.getsize(path):,} bytes: empty, "
            "truncated, or of another format): save or download it again"
        )
    if ending == ".keras":
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        total = sum(sizes.values())
        if sizes.get("config.json", 0) > _MAX_CONFIG or total > _MAX_RATIO * os.path.getsize(path):
            raise ValueError(
                f"model {path!r} unpacks to {total:,} bytes, far more than a network of its size: "
                "it is damaged or harmful"
            )


def _other_version(path, version):
    """Which Keras wrote a .keras file, if it is not the installed one; else ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            written_by = str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return ""
    return "" if written_by == version else f" (written by Keras {written_by}, this is {version})"


def _load_failure(problem):
    """One line: why Keras cannot load a file, and the way out if the file lacks code."""
    errors, error = [], problem
    while error is not None and len(errors) < 10:
        errors.append(str(error))
        error = error.__cause__ or error.__context__
    text = "\n".join(errors)
    if "Lambda" in text and "safe_mode" in text:
        return (
            "it has a Lambda layer, whose Python code is stored in the file and is not run. Where "
            "the model was built, write model.export('folder') and convert that folder; or "
            "replace the Lambda by a stock layer (e.g. Rescaling) or a registered layer class"
        )
    custom = _CUSTOM.search(text)
    if custom is not None:
        name = next(filter(None, custom.groups()))
        return (
            f"the code of its custom layer or function {name!r} is not in the file. Give the "
            "Python file or module that defines it: --module=my_layers.py (custom_objects in "
            "Python)"
        )
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


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
    model = _in_float32(model, keras)

    signature = [tf.TensorSpec((1, *shape), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        return _call(model, images)

    module = tf.Module()
    module.serve = serve
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


class SavedModel:
    """A SavedModel folder as :func:`export_float32` takes a Keras model."""

    layers = ()  # none is known

    def __init__(self, folder: str):
        with runtime.native_log_hidden():
            import tensorflow as tf

            problem = None
            try:
                self.loaded = tf.saved_model.load(folder)
            except Exception as error:  # a damaged file may raise anything
                problem = error  # raised below, outside of the block that would print the log
        if problem is not None:
            reason = " ".join(str(problem).split())[:200]
            raise ValueError(f"SavedModel {folder!r} cannot be loaded: {reason}") from problem
        signatures = self.loaded.signatures
        self.name = os.path.basename(os.path.normpath(folder))
        if "serving_default" not in signatures:
            raise ValueError(
                f"SavedModel {folder!r} has the signatures {sorted(signatures) or '(none)'}; it "
                "needs serving_default, as model.export('folder') writes it"
            )
        self._signature = signatures["serving_default"]
        self._names, self.inputs = zip(*self._signature.structured_input_signature[1].items())
        shape = self.inputs[0].shape
        if shape.rank is None or (shape.rank == 4 and shape[0] not in (None, 1)):
            raise ValueError(
                f"SavedModel {folder!r} takes images of shape {shape}: export it with the shape "
                "(None, height, width, channels), i.e. for any batch"
            )
        self.outputs = list(self._signature.structured_outputs.values())
        self.variables = self.weights = list(self._signature.variables)

    def __call__(self, images, training=False):
        """The outputs of the signature, by name."""
        import tensorflow as tf

        images = tf.cast(images, self.inputs[0].dtype)
        return self._signature(**{self._names[0]: images})


def _in_float32(model, keras):
    """The model, or a float32 copy of a mixed-precision model."""
    if all(layer.compute_dtype == "float32" for layer in model.layers if layer.weights):
        return model

    def copy(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(model, clone_function=copy)
    copy_weights(model, clone)
    return clone
