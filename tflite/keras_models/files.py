"""Opens ``.keras`` and ``.h5`` files and SavedModel folders."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping

from keras_effnet.compiled_loss import read_loss
from keras_effnet.keras_file import check_keras_file
from keras_effnet.litert import runtime

_MAX_CONFIG = 64 << 20  # bytes of the layers' configuration in a .keras file
_MAX_RATIO = 100  # of a .keras file's unpacked size to its own: weights hardly shrink
_CUSTOM = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|activation function)):? "
    r"'?([^\s'.]+)|object of type `([^`]+)`|'class_name': 'function', 'config': '([^']+)'"
)


def load_keras(path: str | os.PathLike, custom_objects: Mapping[str, object] | None = None):
    """The Keras model in a ``.keras`` or ``.h5`` file, without its optimizer, or the
    :class:`SavedModel` in a folder.

    Args:
        path: of the file.
        custom_objects: {name: class or function} that the file refers to. What is registered by
            ``keras.saving.register_keras_serializable`` need not be given.

    Raises:
        ValueError: the file does not exist, is damaged, or Keras cannot read it.
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
        import h5py  # only for such a file: the import takes a moment

        is_readable = h5py.is_hdf5(path)
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
        check_keras_file(path)


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
